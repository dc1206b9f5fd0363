"""Sequences in micro-batches: none lost, none too full, none much dearer than the others."""

import random

import pytest

from swift.data.collate import balanced


@pytest.mark.parametrize('seed', range(20))
def test_every_sequence_is_in_one_group_that_holds_no_more_than_it_may(seed):
    draw = random.Random(seed)
    limit = draw.choice([1, 10, 100, 2048])
    lengths = [draw.randint(1, 300) for _ in range(draw.randint(0, 60))]
    groups = balanced(lengths, limit)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= limit for group in groups)
    assert all(group == sorted(group) for group in groups)


def test_a_little_more_than_one_batch_makes_two_halves():
    lengths = [100] * 24
    assert [sum(lengths[i] for i in group) for group in balanced(lengths, 2048)] == [1200, 1200]


def test_long_sequences_are_spread_over_the_groups():
    lengths = [900, 50, 50, 50, 50, 900, 50, 50, 50, 50]
    assert [sorted(lengths[i] for i in group)[-2:] for group in balanced(lengths, 1100)] == [[50, 900], [50, 900]]


def test_the_same_sequences_are_grouped_the_same():
    lengths = [7, 7, 7, 3, 3, 9]
    assert balanced(lengths, 16) == balanced(list(lengths), 16)
