"""Several datasets as one order of rows: counts, splits, mixing, columns."""

from collections import Counter

import pytest

from swift import data
from swift.core.errors import ConfigError, DataError
from swift.data.args import DataArgs

from .bytes_template import jsonl, pairs


def questions(rows):
    return [row['messages'][-2]['content'].split()[0] for row in rows]


@pytest.fixture
def hundred(tmp_path):
    return str(jsonl(tmp_path / 'a.jsonl', pairs(100)))


def load(*typed, **flags):
    return data.load(DataArgs(dataset=list(map(str, typed)), **flags))


def test_a_count_beyond_the_rows_repeats_whole_epochs_and_a_random_rest(hundred):
    count = Counter(questions(load(f'{hundred}#230').train))
    assert sum(count.values()) == 230
    assert set(count.values()) == {2, 3}
    assert sum(each == 3 for each in count.values()) == 30


def test_a_count_below_the_rows_is_a_random_sample_without_repetition(hundred):
    first = questions(load(f'{hundred}#20').train)
    assert len(set(first)) == 20
    assert first != questions(load(f'{hundred}#20', data_seed=7).train)
    assert questions(load(f'{hundred}#20', dataset_shuffle=False).train) == [f'q{i}' for i in range(20)]


def test_the_same_flags_give_the_same_order(hundred):
    assert questions(load(hundred).train) == questions(load(hundred).train)
    assert questions(load(hundred, dataset_shuffle=False).train) == [f'q{i}' for i in range(100)]


@pytest.mark.parametrize('count', ['', '#40', '#250'])
def test_no_row_is_on_both_sides_of_a_split(hundred, count):
    train, val = load(hundred + count, split_dataset_ratio=0.1)
    assert len(val) == (4 if count == '#40' else 10)
    assert not set(questions(train)) & set(questions(val))
    assert len(train) + len(val) == int(count[1:] or 100)


def test_named_evaluation_rows_come_in_their_order_and_nothing_is_cut_off(hundred, tmp_path):
    other = str(jsonl(tmp_path / 'v.jsonl', pairs(5, first=500)))
    train, val = load(hundred, val_dataset=[f'{other}#3'], split_dataset_ratio=0.5)
    assert len(train) == 100
    assert questions(val) == ['q500', 'q501', 'q502']


def test_datasets_lie_end_to_end_unless_interleaved(hundred, tmp_path):
    other = str(jsonl(tmp_path / 'b.jsonl', pairs(10, first=500)))
    train = load(hundred, other, dataset_shuffle=False).train
    assert questions(train) == [f'q{i}' for i in [*range(100), *range(500, 510)]]


@pytest.mark.parametrize('strategy', ['first_exhausted', 'all_exhausted'])
def test_interleaving_draws_by_probability_until_datasets_run_out(hundred, tmp_path, strategy):
    other = str(jsonl(tmp_path / 'b.jsonl', pairs(30, first=500)))
    train = load(hundred, other, interleave_prob=[0.5, 0.5], stopping_strategy=strategy, dataset_shuffle=False).train
    numbers = [int(each[1:]) for each in questions(train)]
    small, large = [n for n in numbers if n >= 500], [n for n in numbers if n < 500]
    if strategy == 'first_exhausted':
        assert small == list(range(500, 530))
        assert numbers[-1] == 529
        assert large == list(range(len(large)))
    else:
        assert large == list(range(100))
        assert small == [500 + i % 30 for i in range(len(small))]
        assert len(small) > 60


@pytest.mark.parametrize('weights', [[0.5], [0.5, 0.6], [1.0, 0.0], [1.5, -0.5]])
def test_probabilities_that_make_no_sense_are_refused(hundred, weights):
    with pytest.raises(ConfigError, match='--interleave_prob'):
        load(hundred, hundred, interleave_prob=weights)


def test_columns_are_renamed_by_flag_and_slips_of_the_pen_are_refused(tmp_path):
    path = str(jsonl(tmp_path / 'a.jsonl', [{'Frage': 'q1', 'b': 'r'}]))
    assert questions(load(path, columns='{"frage": "query", "b": "response"}').train) == ['q1']
    with pytest.raises(ConfigError, match='did you mean frage'):
        load(path, columns={'fragen': 'query'})
    with pytest.raises(ConfigError, match='not JSON'):
        load(path, columns='{a: b}')


def test_an_empty_dataset_is_named(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n')
    with pytest.raises(DataError, match=r'a\.jsonl: there are no rows'):
        load(str(tmp_path / 'a.jsonl'))


# ------------------------------------------------------------------------------------------------------ load_dataset
def test_load_dataset_leaves_out_bad_rows_and_stops_when_they_are_many(tmp_path, caplog):
    good = pairs(400)
    path = jsonl(tmp_path / 'a.jsonl', [*good[:200], '{broken', *good[200:]])
    train, val = data.load_dataset(str(path))
    assert val is None
    assert train.to_list() == data.load_dataset(good)[0].to_list()
    path = jsonl(
        tmp_path / 'a.jsonl', [*good[:200], '{broken', {'query': 5}, '{"query": null}', '[]', '5', *good[200:]]
    )
    with pytest.raises(DataError) as caught:
        data.load_dataset(str(path))
    assert '5 of 405 rows' in str(caught.value)
    assert f'{path}:201: bad JSON' in str(caught.value)
    assert len(data.load_dataset(str(path), max_rejected=0.02)[0]) == 400
    with pytest.raises(DataError, match='--strict'):
        data.load_dataset(str(jsonl(tmp_path / 'b.jsonl', [*good, '{'])), strict=True)


def test_load_dataset_takes_values_and_lists_of_datasets(tmp_path):
    datasets = pytest.importorskip('datasets')
    path = str(jsonl(tmp_path / 'a.jsonl', pairs(3)))
    hugging = datasets.Dataset.from_list(pairs(2, first=50))
    train, val = data.load_dataset([path, hugging, pairs(1, first=90)], split_dataset_ratio=0.0)
    assert questions(train) == ['q0', 'q1', 'q2', 'q50', 'q51', 'q90']
    train, val = data.load_dataset(path, split_dataset_ratio=0.4)
    assert (len(train), len(val)) == (1, 2)


def test_a_dataset_is_a_list_that_can_be_selected_shuffled_and_mapped(tmp_path):
    dataset = data.load_dataset(pairs(10))[0]
    assert len(dataset) == 10
    assert questions(dataset.select([3, 3, 1])) == ['q3', 'q3', 'q1']
    assert sorted(questions(dataset.shuffle(1))) == sorted(questions(dataset))
    assert questions(dataset.shuffle(1)) != questions(dataset)
    changed = dataset.map(
        lambda row: {**row, 'messages': [*row['messages'][:-1], {'role': 'assistant', 'content': 'x'}]}
    )
    assert changed[-1]['messages'][-1]['content'] == 'x'
    assert changed.fingerprint() != dataset.fingerprint()
    with pytest.raises(IndexError):
        dataset[10]


def test_rows_written_are_read_back_the_same(tmp_path):
    rows = [
        {'messages': [{'role': 'user', 'content': 'a\u2028ü'}], 'rejected_response': 'n', 'label': True},
        {'text': 't'},
    ]
    dataset = data.load_dataset(rows)[0]
    data.save(dataset, tmp_path / 'val.jsonl')
    assert data.load_dataset(str(tmp_path / 'val.jsonl'))[0].to_list() == dataset.to_list()


def test_rows_that_cannot_be_read_are_not_written(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', [*pairs(2), '{broken', *pairs(1, first=9)])
    data.save(load(path, dataset_shuffle=False).train, tmp_path / 'val.jsonl')
    assert questions(data.load_dataset(str(tmp_path / 'val.jsonl'))[0]) == ['q0', 'q1', 'q9']


def test_encode_preprocessor_gives_labels_and_weights():
    from .bytes_template import encode

    class Bytes:
        def __init__(self):
            self.encode = encode

    (row,) = data.EncodePreprocessor(Bytes())([{'query': 'a', 'response': 'b'}])
    assert row == {
        'input_ids': [256, 97, 98, 257],
        'labels': [-100, -100, 98, 257],
        'loss_scale': [0, 0, 1, 1],
        'length': 4,
    }
