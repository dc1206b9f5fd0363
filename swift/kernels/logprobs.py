"""Log-probabilities of targets from logits, with fp32 reductions and without an fp32 copy of the logits.

Shapes: ``S`` supervised rows, ``V`` vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 128
"""Rows reduced at a time: ROWS x V fp32 numbers of workspace."""


class _Logprobs(torch.autograd.Function):
    """log p = z_target - logsumexp(z);  d log p / dz = onehot(target) - softmax(z)."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logps = torch.empty(len(targets), dtype=wide, device=logits.device)
        lse = torch.empty_like(logps)
        correct = torch.empty(len(targets), dtype=torch.bool, device=logits.device)
        for at in range(0, len(targets), ROWS):
            rows, ids = logits[at : at + ROWS].to(wide), targets[at : at + ROWS]
            lse[at : at + ROWS] = torch.logsumexp(rows, -1)
            logps[at : at + ROWS] = rows.gather(1, ids[:, None])[:, 0] - lse[at : at + ROWS]
            correct[at : at + ROWS] = rows.argmax(-1) == ids
        ctx.save_for_backward(logits, targets, lse)
        ctx.mark_non_differentiable(correct)
        return logps, correct

    @staticmethod
    def backward(ctx, grad: Tensor, _correct: Tensor) -> tuple[Tensor, None]:
        logits, targets, lse = ctx.saved_tensors
        out = torch.empty_like(logits)
        for at in range(0, len(targets), ROWS):
            rows = logits[at : at + ROWS].to(lse.dtype) - lse[at : at + ROWS, None]
            rows.exp_().mul_(-grad[at : at + ROWS, None])
            rows.scatter_add_(1, targets[at : at + ROWS, None], grad[at : at + ROWS, None])
            out[at : at + ROWS] = rows
        return out, None


def target_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and whether it is the most likely token.

    Args:
        logits: [S, V] in any float dtype.
        targets: [S] int64.

    Returns:
        logps fp32 (fp64 for fp64 logits) [S], differentiable; correct bool [S].
    """
    return _Logprobs.apply(logits, targets)
