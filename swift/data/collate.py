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
        max_tokens: instead, as many sequences in a batch as this many tokens allow; a longer one stands alone.
    """
    if max_tokens is None:
        groups = [[each for item in items[i : i + size] for each in item] for i in range(0, len(items), size)]
    else:
        groups, free = [], 0
        for each in (each for item in items for each in item):
            if not groups or len(each) > free:
                groups.append([])
                free = max_tokens
            groups[-1].append(each)
            free -= len(each)
    return [collate(group) for group in groups]
