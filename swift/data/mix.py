"""Order as arithmetic: which rows, in which order, as pure functions of seeds and numbers.

Randomness comes from the raw bits of PCG64, whose stream numpy promises to keep, and never from methods that it may
change; so the same seed gives the same order in every version.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAMPLE, SPLIT, MIX, EPOCH, PACKS, BUFFER, AUTHOR, DRAWS = range(
    1, 9
)  # what the numbers are for, so that no two uses share a stream


def bits(count: int, *key: int) -> np.ndarray:
    """``count`` random uint64, a pure function of ``key``."""
    seed = np.random.SeedSequence([each & 0xFFFF_FFFF_FFFF_FFFF for each in key])
    return np.random.PCG64(seed).random_raw(count)


def uniform(count: int, *key: int) -> np.ndarray:
    """``count`` floats in [0, 1)."""
    return (bits(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *key: int) -> np.ndarray:
    """The numbers below ``count`` in random order, int64."""
    return np.argsort(bits(count, *key), kind='stable')


def sample(count: int, wanted: int | None, *, shuffle: bool, key: Sequence[int]) -> np.ndarray:
    """``wanted`` of ``count`` rows; beyond ``count``, whole epochs and then a part of one more.

    Without ``shuffle`` the part is the first rows, else random ones; None takes every row once.
    """
    if wanted is None or count == 0:
        return np.arange(count)
    epochs, rest = divmod(wanted, count)
    part = permutation(count, SAMPLE, *key)[:rest] if shuffle else np.arange(rest)
    return np.concatenate([np.tile(np.arange(count), epochs), part])


def split(rows: np.ndarray, ratio: float, *, shuffle: bool, key: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(train, val): ``ratio`` of the different rows for val, so that no row is in both."""
    if ratio <= 0:
        return rows, rows[:0]
    different = np.unique(rows)
    train_count = int(len(different) * (1 - ratio) + 1e-9)
    order = different[permutation(len(different), SPLIT, *key)] if shuffle else different
    val = order[train_count:]
    return rows[~np.isin(rows, val)], val


def interleave(
    lengths: Sequence[int], probabilities: Sequence[float], *, all_exhausted: bool, key: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw from several lists: (which list [n], how many-th of it [n]), each list in its own order.

    Ends when the first list has given its last row; with ``all_exhausted`` when each has, those that ran out beginning
    again.
    """
    block = sum(lengths) * 2 + 1024
    drawn, ends = np.zeros(0, np.int64), []
    while len(ends) < (len(lengths) if all_exhausted else 1):
        drawn = np.concatenate([drawn, choices(block, probabilities, MIX, *key, len(drawn))])
        last = [np.flatnonzero(drawn == i)[length - 1 : length] for i, length in enumerate(lengths)]
        ends = [int(each[0]) for each in last if len(each)]
    drawn = drawn[: (max(ends) if all_exhausted else min(ends)) + 1]
    nth = np.zeros_like(drawn)
    for i, length in enumerate(lengths):
        mine = drawn == i
        nth[mine] = np.arange(mine.sum()) % length
    return drawn, nth


def choices(count: int, probabilities: Sequence[float], *key: int) -> np.ndarray:
    """``count`` random indices of ``probabilities``, int64."""
    edges = np.cumsum(np.asarray(probabilities, np.float64))
    return np.minimum(np.searchsorted(edges / edges[-1], uniform(count, *key), side='right'), len(edges) - 1)
