"""How the tokens of a batch are laid out for a forward pass: rounded up, one sequence at a time, prefixes repeated.

Shapes: ``T`` tokens, ``N`` sequences.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Batch, Segments

ROUND = 64
"""Numbers of rows that products see are multiples of it: libraries keep what they prepared for each new number."""


def rounded(batch: Batch) -> Batch:
    """The batch and a last sequence of no weight that fills it to a multiple of ROUND tokens."""
    spare = -len(batch.input_ids) % ROUND
    if not spare:
        return batch
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, spare)),
        position_ids=torch.cat([batch.position_ids, torch.arange(spare)]),
        weight=F.pad(batch.weight, (0, spare)),
        segments=batch.segments.followed_by(spare),
    )


def padded(rows: Tensor) -> Tensor:
    """Rows, the last repeated up to a multiple of ROUND."""
    spare = -len(rows) % ROUND
    return torch.cat([rows, rows[-1:].expand(spare, *rows.shape[1:])]) if spare and len(rows) else rows


def one_by_one(batch: Batch) -> list[Batch]:
    """Each sequence of a batch without prefixes as a batch of its own."""
    parts = (x.split(batch.segments.lengths) for x in (batch.input_ids, batch.position_ids, batch.weight))
    return [Batch(ids, positions, Segments((len(ids),)), weight) for ids, positions, weight in zip(*parts, strict=True)]


def unshared(batch: Batch) -> tuple[Batch, Tensor]:
    """The same sequences, each with its own copy of what it continues, and where each token of ``batch`` is then.

    Returns:
        A batch of T' tokens without prefixes, and int64 [T]: the first copy of each token.
    """
    segments, starts = batch.segments, batch.segments.starts
    paths = [segments.path(leaf) for leaf in segments.leaves]
    taken = torch.cat([torch.arange(starts[i], starts[i + 1]) for path in paths for i in path])  # [T']
    back = torch.empty(segments.total, dtype=torch.int64)
    back[taken.flip(0)] = torch.arange(len(taken)).flip(0)  # the first copy is written last
    taken, back = taken.to(batch.input_ids.device), back.to(batch.input_ids.device)
    whole = Batch(
        input_ids=batch.input_ids[taken],
        position_ids=batch.position_ids[taken],
        segments=Segments(tuple(sum(segments.lengths[i] for i in path) for path in paths)),
        weight=batch.weight[taken],
    )
    return whole, back


def predictors(segments: Segments) -> Tensor:
    """The token whose output predicts each token, int64 [T]: the one before it, or the last one of its prefix.

    The first token of a sequence has none: -1, or the last token of the sequence before it.
    """
    before = torch.arange(-1, segments.total - 1)
    starts = segments.starts
    for i, parent in enumerate(segments.parents):
        if parent >= 0 and segments.lengths[i]:
            before[starts[i]] = starts[parent + 1] - 1
    return before


def ends(segments: Segments) -> list[int]:
    """Position of the last token of each of the N sequences."""
    starts = segments.starts
    return [starts[leaf + 1] - 1 for leaf in segments.leaves]


def first_tokens(batch: Batch, count: int) -> Batch:
    """The first ``count`` tokens, every one but the first of its segment a target: a sequence may be cut anywhere."""
    lengths, left = [], min(count, len(batch.input_ids))
    for length in batch.segments.lengths:
        if left:
            lengths.append(min(length, left))
            left -= lengths[-1]
    segments = Segments(tuple(lengths), batch.segments.prefix_of[: len(lengths)])
    weight = torch.ones(segments.total)
    weight[list(segments.starts[:-1])] = 0
    return Batch(batch.input_ids[: segments.total], batch.position_ids[: segments.total], segments, weight)
