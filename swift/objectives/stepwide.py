"""Losses that look at a whole optimizer step, without holding its activations: two passes and the chain rule.

A loss L(s_1, ..., s_N) of one statistic per sequence (a log-probability, an embedding) has the gradient
sum_i (dL/ds_i) (ds_i/dtheta). The first pass computes all s_i without gradient, then L and the *pulls* dL/ds_i, which
are small. In the second pass every micro-batch adds sum_i pull_i s_i, with pulls as constants, and so contributes its
part of the exact gradient, however the step is split and in whatever order (GradCache, arXiv 2101.06983, sec. 3.2).
Both passes must see the same dropout: ``Prepares.repeats``.

Shapes: ``N`` sequences of a micro-batch; a statistic is [N] or [N, d].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from swift.core.types import Batch

Reference = Callable[[list[Batch]], list[Tensor]]
"""Log-probabilities [T] of each batch by the reference model."""


def whole(step: list[Batch], values: list[Tensor]) -> Tensor:
    """Numbers per sequence of each micro-batch, as one tensor in the order that the rows have in the step."""
    return torch.cat(values)[_order(step)]


def parts(step: list[Batch], values: Tensor) -> list[Tensor]:
    """The inverse of ``whole``: the numbers of each micro-batch."""
    back = torch.empty_like(values)
    back[_order(step)] = values
    return list(back.split([len(batch.segments.leaves) for batch in step]))


def pulls(step: list[Batch], statistics: list[Tensor], loss: Callable[[Tensor], Tensor]) -> list[dict[str, Tensor]]:
    """Streams for ``surrogate``.

    Args:
        statistics: of each micro-batch, without gradient.
        loss: of the statistics of the whole step in its order; any shape, it is summed.
    """
    with torch.enable_grad():
        leaf = whole(step, statistics).detach().requires_grad_()
        value = loss(leaf).sum()
        (pull,) = torch.autograd.grad(value, leaf)
    share = (value.detach() / len(leaf)).expand(len(leaf))
    return [
        {'pull': pull, 'share': share}
        for pull, share in zip(parts(step, pull), parts(step, share.contiguous()), strict=True)
    ]


def surrogate(statistics: Tensor, batch: Batch) -> Tensor:
    """A 0-dim tensor with the micro-batch's part of the gradient, and an even part of the value, of the step's loss."""
    pulled = (batch.streams['pull'] * statistics).sum()
    return pulled + (batch.streams['share'].sum() - pulled).detach()


def _order(step: list[Batch]) -> list[int]:
    """Indices of the sequences, counted through the micro-batches, in the order of the step."""
    found: list[tuple[int, int, int]] = []
    before = 0
    for batch in step:
        spans = batch.spans()
        for place, (first, end) in zip(batch.places or range(len(spans)), spans, strict=True):
            found.append((place, before + first, before + end))
        before += spans[-1][1]
    return [i for _, first, end in sorted(found) for i in range(first, end)]
