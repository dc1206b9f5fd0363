"""Streams: what comes, in which order, and that a pass can be put back to any point."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift import data
from swift.core.errors import ConfigError
from swift.data.args import DataArgs

from .bytes_template import jsonl, pairs


def stream(*typed, **flags):
    return data.load(DataArgs(dataset=list(map(str, typed)), streaming=True, **flags)).train


def numbers(made, places):
    return [int(made.sample(place).messages[0].content.split()[0][1:]) for place in places]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stream')
    jsonl(folder / 'a.jsonl', pairs(30))
    (folder / 'b.json').write_text(json.dumps(pairs(20, first=100)))
    rows = ''.join(f'{row["query"]},{row["response"]}\n' for row in pairs(10, first=200))
    (folder / 'c.csv').write_text('query,response\n' + rows)
    return [folder / 'a.jsonl', folder / 'b.json', folder / 'c.csv']


EVERYTHING = [*range(30), *range(100, 120), *range(200, 210)]


def test_files_follow_each_other_without_a_buffer(files):
    made = stream(*files, dataset_shuffle=False)
    assert numbers(made, made.start(0).take(100)) == EVERYTHING


def test_a_buffer_shuffles_near_rows_differently_in_every_epoch(files):
    made = stream(*files, shuffle_buffer_size=8)
    first, second = (numbers(made, made.start(epoch).take(100)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == EVERYTHING
    assert first != second
    assert first != EVERYTHING
    assert all(number >= i - 30 for i, number in enumerate(first))
    assert all(EVERYTHING.index(number) <= i + 8 for i, number in enumerate(first))  # no row comes before its buffer


def test_counts_take_the_first_rows_or_begin_again(files):
    made = stream(f'{files[0]}#5', f'{files[2]}#25', dataset_shuffle=False)
    expected = [*range(5), *range(200, 210), *range(200, 210), *range(200, 205)]
    assert numbers(made, made.start(0).take(100)) == expected


@pytest.mark.parametrize('strategy', ['first_exhausted', 'all_exhausted'])
def test_drawing_by_probability_ends_as_it_does_without_streaming(files, strategy):
    flags = {'interleave_prob': [0.5, 0.3, 0.2], 'stopping_strategy': strategy, 'dataset_shuffle': False}
    made = stream(*files, **flags)
    found = numbers(made, made.start(0).take(1000))
    counts = Counter(found)
    if strategy == 'first_exhausted':
        assert max(counts.values()) == 1
        assert any({*group} <= {*found} for group in (range(30), range(100, 120), range(200, 210)))
    else:
        assert set(counts) == set(EVERYTHING)
    for group in (range(30), range(100, 120), range(200, 210)):  # each keeps its own order
        own = [number for number in found if number in group]
        assert own == [group[i % len(group)] for i in range(len(own))]


@given(
    done=st.integers(0, 70),
    buffer=st.sampled_from([0, 1, 7, 100]),
    weights=st.sampled_from([None, [0.5, 0.3, 0.2]]),
    epoch=st.integers(0, 2),
)
def test_a_pass_put_back_to_any_point_goes_on_the_same(files, done, buffer, weights, epoch):
    flags = {'shuffle_buffer_size': buffer, 'interleave_prob': weights, 'stopping_strategy': 'all_exhausted'}
    made = stream(*files, **flags)
    run = made.start(epoch)
    run.take(done)
    state = json.loads(json.dumps(run.state()))
    again = stream(*files, **flags)
    assert again.start(epoch, state).take(500) == run.take(500)


def test_a_stream_does_not_read_ahead_of_what_is_asked(tmp_path):
    path = jsonl(tmp_path / 'a.jsonl', [*pairs(100), '{broken'])
    made = stream(path, shuffle_buffer_size=10)
    assert len(numbers(made, made.start(0).take(50))) == 50


def test_a_stream_cannot_be_split_by_a_ratio(files):
    with pytest.raises(ConfigError, match='--val_dataset'):
        stream(files[0], split_dataset_ratio=0.1)
    loaded = data.load(DataArgs(dataset=[str(files[0])], val_dataset=[str(files[2])], streaming=True))
    assert len(loaded.val) == 10


def test_load_dataset_streams_too(files):
    made, val = data.load_dataset(str(files[0]), streaming=True)
    assert val is None
    assert numbers(made, made.start(0).take(3)) == [0, 1, 2]
    assert [row['messages'][0]['content'].split()[0] for row in made] == [f'q{i}' for i in range(30)]
