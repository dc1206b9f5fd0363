"""Fill packs with sequences: best fit, or next fit in order.

Best fit puts each sequence where the least room stays free. The long ones come first, as in best fit decreasing, and
the shortest last, to fill what is left; those between come in the order of the epoch, so that a pack holds a mix of
rows and not rows of one length, which are often rows of one kind. Which amounts of room exist is kept as a bitmap in
two levels, so a fit is found by a few operations on small integers, at about a million sequences a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from swift.core.errors import DataError

LEAF = 512  # bits of a leaf of the bitmap: operations on integers of this size cost nearly nothing
SHIFT, MASK = LEAF.bit_length() - 1, LEAF - 1

LONG = 4  # a sequence of more than 1/4 of a pack is long
REST = 0.2  # part of all tokens that the shortest sequences keep back for the gaps

Packs = list[list[int]]


def best_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> Packs:
    """Packs of sequence numbers, each pack at most ``capacity`` tokens."""
    lengths = _checked(lengths, capacity)
    sizes = lengths.tolist()
    packs: Packs = []
    room: list[list[int]] = [[] for _ in range(capacity + 1)]  # packs by what is free in them
    leaves, root = [0] * ((capacity >> SHIFT) + 1), 0  # bit r of the bitmap: room[r] is not empty
    for i in _order(lengths, capacity).tolist():
        size = sizes[i]
        leaf = size >> SHIFT
        if bits := leaves[leaf] >> (size & MASK):
            free = size + (bits & -bits).bit_length() - 1
        elif bits := root >> (leaf + 1):
            leaf += (bits & -bits).bit_length()
            free = (leaf << SHIFT) + (leaves[leaf] & -leaves[leaf]).bit_length() - 1
        else:
            free = 0
        if free:
            pack = room[free].pop()
            packs[pack].append(i)
            if not room[free]:
                leaves[leaf] ^= 1 << (free & MASK)
                if not leaves[leaf]:
                    root ^= 1 << leaf
            free -= size
        else:
            pack, free = len(packs), capacity - size
            packs.append([i])
        if free:
            if not room[free]:
                leaves[free >> SHIFT] |= 1 << (free & MASK)
                root |= 1 << (free >> SHIFT)
            room[free].append(pack)
    return packs


def _order(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Sequence numbers in the order of placing: long ones by length, the many as they come, the shortest by length."""
    falling = np.argsort(-lengths, kind='stable')
    sizes = lengths[falling]
    long = int(np.count_nonzero(sizes * LONG > capacity))
    rest = int(np.count_nonzero(np.cumsum(sizes[::-1]) <= REST * sizes.sum()))
    middle = max(long, len(sizes) - rest)
    return np.concatenate([falling[:long], np.sort(falling[long:middle]), falling[middle:]])


def next_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> Packs:
    """Packs in the order of the sequences: a pack is closed by the first one that does not fit."""
    packs: Packs = []
    free = -1
    for i, size in enumerate(_checked(lengths, capacity).tolist()):
        if size > free:
            packs.append([])
            free = capacity
        packs[-1].append(i)
        free -= size
    return packs


STRATEGIES: dict[str, Callable[[np.ndarray, int], Packs]] = {'binpack': best_fit, 'sequential': next_fit}


def _checked(lengths: Sequence[int] | np.ndarray, capacity: int) -> np.ndarray:
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and lengths.max() > capacity:
        raise DataError(
            f'a sequence of {lengths.max():,} tokens does not fit a pack of {capacity:,}: '
            'raise --packing_length, or cut sequences with --max_length'
        )
    return lengths
