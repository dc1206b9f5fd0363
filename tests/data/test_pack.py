import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import DataError
from swift.data.pack import STRATEGIES, _order, best_fit, next_fit

LENGTHS = st.integers(1, 3000).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=80), st.just(capacity))
)


@pytest.mark.parametrize('strategy', STRATEGIES)
@given(case=LENGTHS)
def test_no_sequence_is_lost_doubled_or_too_much(strategy, case):
    lengths, capacity = case
    packs = STRATEGIES[strategy](lengths, capacity)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in pack) <= capacity for pack in packs)


@given(case=LENGTHS)
def test_best_fit_puts_each_where_the_least_room_stays(case):
    """Against the plain algorithm: try every open pack."""
    lengths, capacity = case
    free: list[int] = []
    for size in (lengths[i] for i in _order(np.asarray(lengths, np.int64), capacity)):
        fits = [room for room in free if room >= size]
        if fits:
            free.remove(min(fits))
            free.append(min(fits) - size)
        else:
            free.append(capacity - size)
    packs = best_fit(lengths, capacity)
    assert sorted(capacity - sum(lengths[i] for i in pack) for pack in packs) == sorted(free)


@given(case=LENGTHS)
def test_long_ones_come_first_and_the_shortest_last(case):
    lengths, capacity = case
    order = _order(np.asarray(lengths, np.int64), capacity).tolist()
    assert sorted(order) == list(range(len(lengths)))
    long = sum(4 * size > capacity for size in lengths)
    assert [lengths[i] for i in order[:long]] == sorted(lengths, reverse=True)[:long]


def test_a_pack_of_short_rows_is_a_mix_of_their_lengths():
    lengths = np.random.default_rng(0).integers(30, 300, 2000)
    means = [np.mean([lengths[i] for i in pack]) for pack in best_fit(lengths, 2048)]
    assert np.std(means) < 0.35 * np.mean(lengths)  # by falling length alone: 0.41


@given(case=LENGTHS)
def test_next_fit_keeps_the_order(case):
    lengths, capacity = case
    assert [i for pack in next_fit(lengths, capacity) for i in pack] == list(range(len(lengths)))


def test_natural_lengths_fill_packs_to_999_of_1000():
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(5.3, 0.8, 16384)), 8, 2048).astype(int)
    packs = best_fit(lengths, 2048)
    assert lengths.sum() / (len(packs) * 2048) >= 0.999


def test_a_sequence_longer_than_a_pack_is_refused():
    with pytest.raises(DataError, match='--packing_length'):
        best_fit([5, 11], 10)
