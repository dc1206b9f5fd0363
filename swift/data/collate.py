"""Sequences as a Batch: laid end to end, nothing padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swift.core.types import Batch, Encoded, Segments


def collate(sequences: Sequence[Encoded]) -> Batch:
    """T tokens of N sequences. Positions begin at 0 with each."""
    import torch

    lengths = [len(each) for each in sequences]
    starts = np.cumsum(lengths) - lengths  # [N]
    total = sum(lengths)
    return Batch(
        input_ids=torch.from_numpy(np.concatenate([each.input_ids for each in sequences]).astype(np.int64)),
        position_ids=torch.from_numpy(np.arange(total) - np.repeat(starts, lengths)),
        segments=Segments(tuple(lengths)),
        weight=torch.from_numpy(np.concatenate([each.weight for each in sequences]).astype(np.float32)),
        origins=tuple(each.origin for each in sequences),
    )


def micro_batches(items: Sequence[Sequence[Encoded]], size: int, max_tokens: int | None = None) -> list[Batch]:
    """The batches of one optimizer step.

    Args:
        items: what a step is made of: each a pack, or a single sequence.
        size: items in a batch.
        max_tokens: instead, as few batches as hold at most so many tokens each; a longer sequence stands alone. They
            are balanced by the sum of squared lengths, so that the dearest is as cheap as can be.
    """
    if max_tokens is None:
        return [collate([each for item in items[i : i + size] for each in item]) for i in range(0, len(items), size)]
    sequences = [each for item in items for each in item]
    groups = balanced([len(each) for each in sequences], max_tokens)
    return [collate([sequences[i] for i in group]) for group in groups]


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
