"""Rows of several sequences: what lies where, and that nothing is lost by sharing what they begin with."""

import numpy as np
import pytest

from swift.core.errors import RowError
from swift.core.types import Message, Sample
from swift.data import groups

from .bytes_template import STOP, deleting, encode

ASK = Message('user', 'what is two and two, and what is its double?')


def unshared(row):
    """Every sequence of a row, as (ids, weights), with what it continues."""
    spans = list(zip(row.segments.starts, row.segments.starts[1:], strict=False))
    for leaf in row.segments.leaves:
        parts = [slice(*spans[i]) for i in row.segments.path(leaf)]
        yield [np.concatenate([column[part] for part in parts]).tolist() for column in (row.input_ids, row.weight)]


def alone(*answers):
    made = [encode(Sample(messages=(ASK, Message('assistant', each))))[0] for each in answers]
    return [[each.input_ids.tolist(), each.weight.tolist()] for each in made]


def solution(*steps, labels=None):
    return Sample(messages=(ASK,), steps=steps, label=[1.0] * len(steps) if labels is None else labels)


def test_a_pair_keeps_both_sequences_and_lays_their_beginning_once():
    sample = Sample(
        messages=(ASK, Message('assistant', 'four')), rejected=(ASK, Message('assistant', 'five')), margin=2
    )
    (row,) = groups.preference(encode, sample)
    assert list(unshared(row)) == alone('four', 'five')
    assert len(row) == len(encode(sample)[0]) + len('ive') + 1
    assert row.label == (2.0,)


def test_steps_are_sequences_that_go_on_and_each_token_lies_there_once():
    said = ('two and two is four', 'its double is eight', 'so eight')
    (row,) = groups.steps(encode, solution(*said, labels=[1.0, 1.0, 0.0]))
    assert list(unshared(row)) == alone(*('\n'.join(said[: i + 1]) for i in range(3)))
    assert row.segments.prefix_of == (-1, 0, 0, 2, 2)
    assert row.label == (1.0, 1.0, 0.0)
    ends = [row.input_ids[end - 1] for i, end in enumerate(row.segments.starts[1:]) if i in row.segments.leaves]
    assert ends == [STOP] * 3
    assert (
        len(row) == len(encode(Sample(messages=(ASK, Message('assistant', '\n'.join(said)))))[0]) + 2
    )  # two more ends


def test_one_step_is_one_sequence():
    (row,) = groups.steps(encode, solution('four'))
    assert list(unshared(row)) == alone('four')


def test_sequences_that_do_not_go_on_share_what_all_begin_with():
    members = [encode(Sample(messages=(ASK, Message('assistant', each))))[0] for each in ('abc', 'abd', 'xyz')]
    row = groups.chain(members)
    assert list(unshared(row)) == alone('abc', 'abd', 'xyz')
    assert row.segments.prefix_of == (-1, 0, 0, 0)


def test_a_solution_that_is_too_long_is_left_out_whole():
    assert groups.steps(deleting(60), solution('four', 'and its double is eight')) == []


@pytest.mark.parametrize(
    ('sample', 'reason'),
    [
        (Sample(messages=(ASK, Message('assistant', 'four')), label=1), 'no steps'),
        (solution('a', 'b', labels=[1.0]), 'label \\[1.0\\]: one number for each of the 2 steps'),
    ],
)
def test_rows_without_judged_steps_are_refused(sample, reason):
    with pytest.raises(RowError, match=reason):
        groups.steps(encode, sample)
