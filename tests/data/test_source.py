"""Steps of a run: their order is a pure function of seed and epoch, and any of them can be returned to."""

import itertools
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from swift import data
from swift.core.errors import ConfigError, DataError
from swift.data import feeds, source
from swift.data.args import DataArgs

from .bytes_template import START, STOP, deleting, encode, jsonl, pairs, splitting, text_of

ROWS = 60


@pytest.fixture
def path(tmp_path):
    return jsonl(tmp_path / 'a.jsonl', pairs(ROWS))


def make(path, tmp_path, *, encode=encode, rows=None, batch_size=2, accumulation=2, fingerprint='bytes', **options):
    run = {
        key: options.pop(key)
        for key in ('epochs', 'max_steps', 'drop_last', 'stop_ids', 'max_length')
        if key in options
    }
    args = DataArgs(dataset=[str(path)], store_dir=str(tmp_path / 'store'), **options)
    rows = data.load(args).train if rows is None else rows
    return data.batches(
        rows, encode, args, fingerprint=fingerprint, batch_size=batch_size, accumulation=accumulation, **run
    )


def ids(step):
    return [batch.input_ids.tolist() for batch in step]


def questions(steps):
    """Which row each sequence is, over all steps."""
    out = []
    for step in steps:
        for batch in step:
            for piece in torch.split(batch.input_ids, list(batch.segments.lengths)):
                out.append(text_of(piece.tolist()).split()[0].partition('r')[0])
    return out


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own(path, tmp_path):
    steps = list(make(path, tmp_path, epochs=2))
    assert len(steps) == 30
    seen = questions(steps)
    assert Counter(seen[:ROWS]) == Counter(seen[ROWS:]) == Counter({f'q{i}': 1 for i in range(ROWS)})
    assert seen[:ROWS] != seen[ROWS:]
    assert seen == questions(make(path, tmp_path, epochs=2))
    assert seen != questions(make(path, tmp_path, epochs=2, data_seed=1))


def test_without_shuffling_rows_come_as_they_lie(path, tmp_path):
    steps = make(path, tmp_path, epochs=2, train_dataloader_shuffle=False, dataset_shuffle=False)
    assert questions(steps) == [f'q{i}' for i in range(ROWS)] * 2


def test_a_batch_lies_end_to_end_with_positions_that_restart(path, tmp_path):
    (first, *_) = make(path, tmp_path)
    assert len(first) == 2
    batch = first[0]
    lengths = batch.segments.lengths
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    assert batch.position_ids.tolist() == list(itertools.chain(*(range(each) for each in lengths)))
    starts = batch.segments.starts[:-1]
    assert [batch.input_ids[i].item() for i in starts] == [START] * 2
    assert [batch.weight[i].item() for i in starts] == [0.0] * 2
    assert [batch.input_ids[i - 1].item() for i in batch.segments.starts[1:]] == [STOP] * 2
    assert [origin.path for origin in batch.origins] == [str(path)] * 2


@pytest.mark.parametrize(
    ('epochs', 'rows', 'batch', 'accumulation', 'drop', 'expected'),
    [
        (1, 60, 2, 2, False, 15),
        (1, 60, 7, 1, False, 9),
        (1, 60, 7, 1, True, 8),
        (1, 60, 7, 2, True, 4),
        (1, 60, 7, 4, False, 3),
        (2.5, 60, 7, 2, False, 13),
        (0.1, 60, 2, 2, False, 2),
    ],
)
def test_steps_are_counted_as_established_trainers_count(
    path, tmp_path, epochs, rows, batch, accumulation, drop, expected
):
    made = make(path, tmp_path, epochs=epochs, batch_size=batch, accumulation=accumulation, drop_last=drop)
    loader = rows // batch if drop else -(-rows // batch)
    per_epoch = -(-loader // accumulation)
    assert len(made) == expected == int(np.ceil(epochs * per_epoch))
    assert len(list(made)) == expected


def test_the_last_step_of_an_epoch_may_be_small_and_never_holds_rows_of_two(path, tmp_path):
    steps = list(make(path, tmp_path, epochs=2, batch_size=7, accumulation=2))
    sizes = [sum(len(batch.segments.lengths) for batch in step) for step in steps]
    assert sizes == [14, 14, 14, 14, 4] * 2
    dropped = list(make(path, tmp_path, epochs=1, batch_size=7, accumulation=2, drop_last=True))
    assert [len(step) for step in dropped] == [2, 2, 2, 2]


def pieces(batch):
    return [part.tolist() for part in batch.input_ids.split(batch.segments.lengths)]


def test_max_tokens_splits_micro_batches_and_never_the_step(path, tmp_path):
    plain = list(make(path, tmp_path, batch_size=4, accumulation=2))
    split = list(make(path, tmp_path, batch_size=4, accumulation=2, max_tokens_per_batch=60))
    sequences = lambda steps: [sorted(rows for batch in step for rows in pieces(batch)) for step in steps]
    assert sequences(plain) == sequences(split)
    assert all(batch.segments.total <= 60 or len(batch.segments.lengths) == 1 for step in split for batch in step)
    assert any(len(step) != 2 for step in split)


# ---------------------------------------------------------------------------------------------------------- packing
@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 16 rows, so that sixty make several."""
    monkeypatch.setattr(source, 'WINDOW', 16)
    monkeypatch.setattr(source, 'MOST', 16)
    monkeypatch.setattr(source, 'BLOCK', 7)
    monkeypatch.setattr(feeds, 'WINDOW', 16)


@pytest.mark.parametrize('strategy', ['binpack', 'sequential'])
def test_packs_hold_every_row_of_their_window_once(path, tmp_path, small_windows, strategy):
    made = make(path, tmp_path, packing=True, packing_length=150, packing_strategy=strategy, epochs=2, batch_size=1)
    steps = list(made)
    assert len(steps) == len(made)
    assert all(batch.segments.total <= 150 for step in steps for batch in step)
    seen = questions(steps)
    assert Counter(seen[:ROWS]) == Counter(seen[ROWS:]) == Counter({f'q{i}': 1 for i in range(ROWS)})
    plain = questions(make(path, tmp_path, epochs=2))
    for at in range(0, ROWS, 16):  # packing changes places inside a window only
        window = slice(at, min(at + 16, ROWS))
        assert Counter(seen[window]) == Counter(plain[window])
    if strategy == 'sequential':
        assert seen == plain


def test_packs_are_not_sorted_by_length(path, tmp_path):
    steps = list(make(path, tmp_path, packing=True, packing_length=150, batch_size=1, accumulation=1))
    longest = [max(batch.segments.lengths) for (batch,) in steps]
    assert longest != sorted(longest, reverse=True)


def test_packing_needs_a_length_and_one_that_holds_every_sequence(path, tmp_path):
    with pytest.raises(ConfigError, match='--packing_length'):
        make(path, tmp_path, packing=True)
    with pytest.raises(DataError, match='--max_length'):
        len(make(path, tmp_path, packing=True, packing_length=10))
    assert len(make(path, tmp_path, packing=True, max_length=200)) > 0


# ----------------------------------------------------------------------------------------------- order and windows
def formats(tmp_path):
    """The same rows in every kind of file."""
    rows = pairs(ROWS)
    yield jsonl(tmp_path / 'a.jsonl', rows)
    (tmp_path / 'a.json').write_text(json.dumps(rows, indent=1))
    yield tmp_path / 'a.json'
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet', row_group_size=7)
    yield tmp_path / 'a.parquet'
    lines = ''.join(f'{row["query"]},{row["response"]}\n' for row in rows)
    (tmp_path / 'a.csv').write_text('query,response\n' + lines)
    yield tmp_path / 'a.csv'


def test_the_steps_do_not_depend_on_the_kind_of_file(tmp_path):
    orders = {json.dumps([ids(step) for step in make(path, tmp_path)]) for path in formats(tmp_path)}
    assert len(orders) == 1


def test_without_packing_the_order_does_not_depend_on_windows(path, tmp_path, monkeypatch):
    orders = set()
    for block in (1, 7, 60, 1000):
        monkeypatch.setattr(source, 'BLOCK', block)
        orders.add(json.dumps([ids(step) for step in make(path, tmp_path, epochs=2)]))
        orders.add(json.dumps([ids(step) for step in make(path, tmp_path / f'{block}', max_steps=30)]))
    assert len(orders) == 1


@pytest.mark.parametrize('packing', [False, True])
def test_rows_tokenised_while_training_make_the_same_steps_as_the_store(path, tmp_path, small_windows, packing):
    flags = {'packing': packing, 'packing_length': 150}
    steps = 3 if packing else 12
    live = make(path, tmp_path, max_steps=steps, **flags)
    assert isinstance(live.feed, feeds.LiveFeed)
    stored = make(path, tmp_path, epochs=1, **flags)
    assert isinstance(stored.feed, feeds.StoreFeed)
    first = list(itertools.islice(stored, steps))
    assert [ids(step) for step in live] == [ids(step) for step in first]
    assert live.feed.identity == stored.feed.identity  # a run may be resumed from either
    assert isinstance(make(path, tmp_path, max_steps=steps, **flags).feed, feeds.StoreFeed)  # now there is one


def test_more_steps_than_an_epoch_has_fill_the_store_first(path, tmp_path):
    made = make(path, tmp_path, max_steps=40)
    assert isinstance(made.feed, feeds.StoreFeed)
    assert len(made) == len(list(made)) == 40


# ----------------------------------------------------------------------------------------------------------- resume
KINDS = {
    'plain': {'epochs': 2},
    'ragged': {'epochs': 2, 'batch_size': 7},
    'dropped': {'epochs': 2, 'batch_size': 7, 'drop_last': True},
    'packed': {'epochs': 2, 'packing': True, 'packing_length': 150, 'batch_size': 1},
    'sequential': {'epochs': 2, 'packing': True, 'packing_length': 150, 'packing_strategy': 'sequential'},
    'tokens': {'epochs': 1, 'max_tokens_per_batch': 70},
    'live': {'max_steps': 12},
    'live packed': {'max_steps': 3, 'packing': True, 'packing_length': 150, 'batch_size': 1},
    'split': {'epochs': 1, 'encode': splitting(20)},
    'deleted': {'epochs': 2, 'encode': deleting(40)},
    'stream': {'max_steps': 40, 'streaming': True, 'shuffle_buffer_size': 10},
    'stream in order': {'epochs': 2, 'streaming': True, 'dataset_shuffle': False},
    'stream packed': {'max_steps': 20, 'streaming': True, 'packing': True, 'packing_length': 150, 'batch_size': 1},
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_resumed_after_any_step_goes_on_as_if_never_stopped(path, tmp_path, small_windows, kind):
    options = KINDS[kind]
    whole, states, epochs = [], [], []
    running = make(path, tmp_path, **options)
    states.append(json.loads(json.dumps(running.state_dict())))
    for step in running:
        whole.append(ids(step))
        states.append(json.loads(json.dumps(running.state_dict())))
        epochs.append(running.epoch)
    assert len(whole) >= 3
    assert epochs == sorted(epochs)
    for done, state in enumerate(states):
        resumed = make(path, tmp_path, **options)
        resumed.load_state_dict(state)
        assert [ids(step) for step in resumed] == whole[done:], f'after step {done}'


def test_resuming_reads_no_row_before_the_window_it_stands_in(path, tmp_path, small_windows):
    read = []

    def counted(sample):
        read.append(sample.origin.row)
        return encode(sample)

    options = {'max_steps': 12, 'streaming': True, 'shuffle_buffer_size': 5}
    running = make(path, tmp_path, **options)
    list(itertools.islice(running, 10))
    resumed = make(path, tmp_path, encode=counted, **options)
    resumed.load_state_dict(running.state_dict())
    rest = list(resumed)
    assert len(rest) == 2
    assert len(read) <= 21  # three windows of seven rows, of sixty


def test_another_order_of_the_data_is_refused(path, tmp_path):
    running = make(path, tmp_path)
    next(iter(running))
    state = running.state_dict()
    for change, word in (
        ({'data_seed': 1}, 'data'),
        ({'batch_size': 3}, 'batch size'),
        ({'packing': True, 'packing_length': 150}, 'packing'),
        ({'fingerprint': 'another template'}, 'data'),
    ):
        with pytest.raises(DataError, match=word):
            make(path, tmp_path, **change).load_state_dict(state)
    jsonl(path, pairs(ROWS + 1))
    with pytest.raises(DataError, match='data'):
        make(path, tmp_path).load_state_dict(state)


# ------------------------------------------------------------------------------------------------------------- lint
def test_errors_of_the_lint_stop_training_unless_allowed(tmp_path):
    rows = [
        *pairs(5),
        {'messages': [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': 'y', 'loss': False}]},
    ]
    path = jsonl(tmp_path / 'a.jsonl', rows)
    with pytest.raises(DataError, match=r'zero-loss: 1 x .*a\.jsonl:6'):
        make(path, tmp_path)
    allowed = make(path, tmp_path, lint='warn')
    assert [finding.rule for finding in allowed.lint.errors] == ['zero-loss']
    live = make(path, tmp_path / 'live', max_steps=1, streaming=True)
    with pytest.raises(DataError, match='zero-loss'):
        next(iter(live))


def test_rejected_rows_of_a_stream_are_judged_at_its_end_and_after_every_window(tmp_path, small_windows):
    bad = jsonl(tmp_path / 'a.jsonl', [*pairs(10), *['{broken'] * 2])
    with pytest.raises(DataError, match='2 of 12 rows'):
        list(make(bad, tmp_path, epochs=1, streaming=True, dataset_shuffle=False))
    long = jsonl(tmp_path / 'b.jsonl', [*pairs(40), '{broken', *pairs(400)])
    assert make(long, tmp_path, max_steps=5, streaming=True).account.rejected == []


def test_an_epoch_that_makes_no_step_is_an_error_and_no_endless_loop(path, tmp_path):
    with pytest.raises(DataError, match='--dataloader_drop_last'):
        list(make(path, tmp_path, batch_size=100, drop_last=True, max_steps=100))
    with pytest.raises(DataError, match='no row is left'):
        list(make(path, tmp_path, encode=lambda sample: [], streaming=True, max_steps=5))


def test_evaluation_gives_the_same_batches_every_time_in_the_order_of_rows(path, tmp_path):
    args = DataArgs(val_dataset=[str(path)], store_dir=str(tmp_path / 'store'))
    rows = data.load(args).val
    evaluation = data.eval_batches(rows, encode, args, fingerprint='bytes', batch_size=8)
    assert len(evaluation) == len(list(evaluation)) == 8
    assert questions([list(evaluation)]) == questions([list(evaluation)]) == [f'q{i}' for i in range(ROWS)]
    args.max_tokens_per_batch = 70
    split = data.eval_batches(rows, encode, args, fingerprint='bytes', batch_size=8)
    assert questions([list(split)]) == [f'q{i}' for i in range(ROWS)]
    assert all(batch.segments.total <= 70 or len(batch.segments.lengths) == 1 for batch in split)
    overlap = evaluation.overlap(make(path, tmp_path))
    assert overlap.count == ROWS
    other = jsonl(tmp_path / 'b.jsonl', pairs(5, first=900))
    assert evaluation.overlap(make(other, tmp_path)) is None


@pytest.mark.parametrize(
    'options', [{}, {'max_tokens_per_batch': 90}, {'packing': True, 'packing_length': 120}, {'batch_size': 3}]
)
def test_the_largest_micro_batch_is_found_without_moving_the_source(path, tmp_path, options):
    made = make(path, tmp_path, epochs=1, **options)
    before = made.state_dict()
    found = made.largest()
    assert made.state_dict() == before
    steps = list(made)
    cost = lambda batch: (len(batch.input_ids), sum(n * n for n in batch.segments.lengths))
    assert cost(found[-1]) == max(cost(batch) for step in steps for batch in step)
    home = next(step for step in steps if any(torch.equal(b.input_ids, found[-1].input_ids) for b in step))
    assert len(found) == min(2, len(home))
    assert all(any(torch.equal(b.input_ids, each.input_ids) for b in home) for each in found)


def test_rows_that_are_tokenised_while_training_have_no_largest_micro_batch(path, tmp_path):
    assert make(path, tmp_path, max_steps=1).largest() == []
