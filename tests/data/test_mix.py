import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swift.data import mix


def test_order_is_the_same_in_every_version_of_numpy():
    """These numbers are the contract: a change of them breaks every run that is to be resumed."""
    assert mix.permutation(8, mix.EPOCH, 42, 0).tolist() == [3, 6, 7, 5, 4, 0, 2, 1]
    assert mix.bits(2, 1, 2).tolist() == mix.bits(3, 1, 2).tolist()[:2]


@given(count=st.integers(0, 200), seed=st.integers(-5, 2**70), epoch=st.integers(0, 9))
def test_a_permutation_holds_each_number_once(count, seed, epoch):
    assert sorted(mix.permutation(count, seed, epoch).tolist()) == list(range(count))


def test_epochs_and_seeds_differ():
    orders = {tuple(mix.permutation(50, mix.EPOCH, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_choices_follow_their_probabilities():
    drawn = mix.choices(20_000, [0.2, 0.5, 0.3], 7)
    assert np.abs(np.bincount(drawn) / 20_000 - [0.2, 0.5, 0.3]).max() < 0.02
