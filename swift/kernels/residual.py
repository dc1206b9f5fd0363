"""A residual sum and the RMSNorm of it in one pass, and one backward that adds the gradient of the residual path.

``total = x + delta``, rounded to the data's type, ``y = norm(total)`` as in ``norm``.  Backward, with the gradients of
both: ``dx = ddelta = dtotal + dnorm(dy)``, where the norm's part is rounded before the addition. These are the bits of
the two operations one after the other; what is saved is reading the sum again and writing a gradient twice.

Shapes: ``R`` rows (all leading dimensions), ``d`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.kernels import again, device, norm
from swift.kernels.compiled import function
from swift.kernels.norm import LIBRARY, SUFFIX

LIBRARY.define(
    'residual_norm(Tensor x, Tensor delta, Tensor weight, float eps, float offset, bool early)'
    ' -> (Tensor, Tensor, Tensor)'
)


def takes(x: Tensor, delta: Tensor, weight: Tensor) -> bool:
    """Whether a fused kernel computes these."""
    return x.shape == delta.shape and device.fused(x, delta, weight)


def residual_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, early: bool = True
) -> tuple[Tensor, Tensor]:
    """``x + delta`` and its ``norm.rms_norm``; fused where a kernel takes them.

    Args:
        x, delta: [..., d]; weight: [d].
        early: round the normalised values to x's dtype before the weight is multiplied.
    """
    if not takes(x, delta, weight):
        return plain(x, delta, weight, eps, offset=offset, early=early)
    total, y = _ResidualNorm.apply(x, delta, weight, eps, offset, early)
    return total, again.note(y, lambda: torch.ops.swift.rms_norm(total, weight, eps, offset, early)[0])


def plain(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, early: bool = True
) -> tuple[Tensor, Tensor]:
    """The same in torch's operations."""
    total = x + delta
    return total, norm.plain(total, weight, eps, offset=offset, early=early)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, delta: Tensor, weight: Tensor, eps: float, offset: float, early: bool):
        total, y, rstd = torch.ops.swift.residual_norm(x, delta, weight, eps, offset, early)
        ctx.save_for_backward(total, weight, rstd)
        ctx.offset, ctx.early = offset, early
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx, direct: Tensor | None, grad: Tensor | None):
        if grad is None:
            return direct, direct, None, None, None, None
        total, weight, rstd = ctx.saved_tensors
        weighed = ctx.needs_input_grad[2]
        both, grad_weight = torch.ops.swift.rms_norm_backward(
            grad, direct, total, weight, rstd, ctx.offset, ctx.early, weighed
        )
        return both, both, grad_weight if weighed else None, None, None, None


@torch.library.impl(LIBRARY, 'residual_norm', 'CPU')
def _forward_cpu(x: Tensor, delta: Tensor, weight: Tensor, eps: float, offset: float, early: bool):
    x, delta, weight = x.contiguous(), delta.contiguous(), weight.contiguous()
    total, y, rstd = _empty(x, delta, weight, eps, offset, early)
    run = function(f'rms_norm_{SUFFIX[x.dtype]}', 'pppppp iii ff')
    run(x, delta, weight, total, y, rstd, len(rstd), len(weight), early, eps, offset)
    return total, y, rstd


@torch.library.impl(LIBRARY, 'residual_norm', 'CUDA')
def _forward_cuda(x: Tensor, delta: Tensor, weight: Tensor, eps: float, offset: float, early: bool):
    from swift.kernels import triton_rows

    x, delta, weight = x.contiguous(), delta.contiguous(), weight.contiguous()
    total, y, rstd = _empty(x, delta, weight, eps, offset, early)
    with torch.cuda.device_of(x):
        triton_rows.rms_norm(x, delta, weight, total, y, rstd, eps, offset, early)
    return total, y, rstd


@torch.library.impl(LIBRARY, 'residual_norm', 'Meta')
def _empty(x: Tensor, delta: Tensor, weight: Tensor, eps: float, offset: float, early: bool):
    total, y = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    return total, y, x.new_empty(x.numel() // max(1, x.shape[-1]), dtype=torch.float32)
