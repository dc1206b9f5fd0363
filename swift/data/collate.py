"""Rows as a Batch: their sequences laid end to end, nothing padded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from swift.core.types import Batch, Encoded, Segments


def collate(rows: Sequence[Encoded], places: Sequence[int] = ()) -> Batch:
    """T tokens of N sequences in G rows. Positions begin at 0 with each sequence and go on after a prefix.

    Args:
        places: of the rows in their optimizer step; in their order unless given.
    """
    import torch

    segments = Segments.joined(each.segments or Segments((len(each),)) for each in rows)
    starts, offsets = np.asarray(segments.starts[:-1]), np.asarray(segments.offsets)
    grouped = any(each.segments for each in rows)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([each.input_ids for each in rows]).astype(np.int64)),
        position_ids=torch.from_numpy(np.arange(segments.total) - np.repeat(starts - offsets, segments.lengths)),
        segments=segments,
        weight=torch.from_numpy(np.concatenate([each.weight for each in rows]).astype(np.float32)),
        origins=tuple(each.origin for each in rows),
        groups=tuple(len(each.segments.leaves) if each.segments else 1 for each in rows) if grouped else (),
        labels=tuple(each.label for each in rows) if any(each.label for each in rows) else (),
        channels=tuple(each.channel for each in rows) if any(each.channel for each in rows) else (),
        places=tuple(places or range(len(rows))),
    )


def micro_batches(items: Sequence[Sequence[Encoded]], size: int, max_tokens: int | None = None) -> list[Batch]:
    """The batches of one optimizer step.

    Args:
        items: what a step is made of: each a pack, or a single row.
        size: items in a batch.
        max_tokens: instead, as few batches as hold at most so many tokens each; a longer row stands alone. They
            are balanced by the sum of squared lengths, so that the dearest is as cheap as can be.
    """
    rows = [each for item in items for each in item]
    parts = split([[len(each) for each in item] for item in items], size, max_tokens)
    return [collate([rows[i] for i in part], part) for part in parts]


def split(items: Sequence[Sequence[int]], size: int, max_tokens: int | None = None) -> list[list[int]]:
    """The places of the rows of each batch of ``micro_batches``, whose items have rows of these lengths."""
    if max_tokens is not None:
        return balanced([length for item in items for length in item], max_tokens)
    ends = [0, *itertools.accumulate(len(item) for item in items)]
    cuts = [*ends[::size], ends[-1]]
    return [list(range(a, b)) for a, b in itertools.pairwise(cuts) if a < b]


def balanced(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Numbers of sequences in groups of at most ``max_tokens``, or of one; in their order, empty groups left out."""
    count = max(1, -(-sum(lengths) // max_tokens))
    while (groups := _spread(lengths, count, max_tokens)) is None:
        count += 1
    return sorted(sorted(group) for group in groups if group)


def _spread(lengths: Sequence[int], count: int, max_tokens: int) -> list[list[int]] | None:
    """The longest first, each into the group with the smallest sum of squares that has room; None if one has none."""
    groups: list[list[int]] = [[] for _ in range(count)]
    tokens, squares = [0] * count, [0] * count
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [g for g in range(count) if not groups[g] or tokens[g] + lengths[i] <= max_tokens]
        if not fits:
            return None
        best = min(fits, key=lambda g: (squares[g], g))
        groups[best].append(i)
        tokens[best] += lengths[i]
        squares[best] += lengths[i] ** 2
    return groups
