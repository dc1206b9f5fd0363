"""RMSNorm in one pass forward and one backward that keep one number a row.

``y = n (offset + w)``, ``n = x rstd``, ``rstd = (mean(x^2) + eps)^-1/2``  (arXiv 1910.07467, eq. 4).  Arithmetic is
fp32. Llama rounds n to the data's type before the weight is multiplied (``early``); Gemma has offset 1 and rounds y
only.

Shapes: ``R`` rows (all leading dimensions), ``d`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.kernels import again, device
from swift.kernels.compiled import function

BLOCKS = 256  # most partial sums of the weight's gradient
BLOCK_ROWS = 64  # fewest rows of one
SUFFIX = {torch.bfloat16: 'bf16', torch.float32: 'f32'}

LIBRARY = torch.library.Library('swift', 'FRAGMENT')
LIBRARY.define('rms_norm(Tensor x, Tensor weight, float eps, float offset, bool early) -> (Tensor, Tensor)')
LIBRARY.define(
    'rms_norm_backward(Tensor grad, Tensor? direct, Tensor x, Tensor weight, Tensor rstd, float offset, bool early,'
    ' bool weighed) -> (Tensor, Tensor)'
)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, early: bool = True) -> Tensor:
    """Normalise the last dimension of ``x`` and scale it by ``offset + weight``; fused where a kernel takes them.

    Args:
        x: [..., d]; weight: [d].
        early: round the normalised values to x's dtype before the weight is multiplied.
    """
    if not device.fused(x, weight):
        return plain(x, weight, eps, offset=offset, early=early)
    y = _RmsNorm.apply(x, weight, eps, offset, early)
    return again.note(y, lambda: torch.ops.swift.rms_norm(x, weight, eps, offset, early)[0])


def plain(x: Tensor, weight: Tensor, eps: float, *, offset: float = 0.0, early: bool = True) -> Tensor:
    """The same in torch's operations."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    normal = x.to(wide)
    normal = normal * torch.rsqrt(normal.pow(2).mean(-1, keepdim=True) + eps)
    if early:
        normal = normal.to(x.dtype).to(wide)
    return (normal * (offset + weight.to(wide))).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, offset: float, early: bool) -> Tensor:
        y, rstd = torch.ops.swift.rms_norm(x, weight, eps, offset, early)
        ctx.save_for_backward(x, weight, rstd)
        ctx.offset, ctx.early = offset, early
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, rstd = ctx.saved_tensors
        weighed = ctx.needs_input_grad[1]
        grads = torch.ops.swift.rms_norm_backward(grad, None, x, weight, rstd, ctx.offset, ctx.early, weighed)
        return grads[0], grads[1] if weighed else None, None, None, None


@torch.library.impl(LIBRARY, 'rms_norm', 'CPU')
def _forward_cpu(x: Tensor, weight: Tensor, eps: float, offset: float, early: bool) -> tuple[Tensor, Tensor]:
    x, weight = x.contiguous(), weight.contiguous()
    y, rstd = _empty(x, weight, eps, offset, early)
    run = function(f'rms_norm_{SUFFIX[x.dtype]}', 'pppppp iii ff')
    run(x, None, weight, None, y, rstd, len(rstd), len(weight), early, eps, offset)
    return y, rstd


@torch.library.impl(LIBRARY, 'rms_norm_backward', 'CPU')
def _backward_cpu(
    grad: Tensor,
    direct: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    offset: float,
    early: bool,
    weighed: bool,
) -> tuple[Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    direct = None if direct is None else direct.contiguous()
    grad_x, grad_weight = _empty_gradients(grad, direct, x, weight, rstd, offset, early, weighed)
    rows, width = len(rstd), len(weight)
    block = max(BLOCK_ROWS, -(-rows // BLOCKS))
    partial = torch.empty(-(-rows // block), width) if weighed else None  # [blocks, d]
    run = function(f'rms_norm_backward_{SUFFIX[x.dtype]}', 'pppppppp iiii f')
    kept = grad_weight if weighed else None
    run(grad, direct, x, weight, rstd, grad_x, kept, partial, rows, width, block, early, offset)
    return grad_x, grad_weight


@torch.library.impl(LIBRARY, 'rms_norm', 'CUDA')
def _forward_cuda(x: Tensor, weight: Tensor, eps: float, offset: float, early: bool) -> tuple[Tensor, Tensor]:
    from swift.kernels import triton_rows

    x, weight = x.contiguous(), weight.contiguous()
    y, rstd = _empty(x, weight, eps, offset, early)
    with torch.cuda.device_of(x):
        triton_rows.rms_norm(x, None, weight, None, y, rstd, eps, offset, early)
    return y, rstd


@torch.library.impl(LIBRARY, 'rms_norm_backward', 'CUDA')
def _backward_cuda(
    grad: Tensor,
    direct: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    offset: float,
    early: bool,
    weighed: bool,
) -> tuple[Tensor, Tensor]:
    from swift.kernels import triton_rows

    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    direct = None if direct is None else direct.contiguous()
    grad_x, grad_weight = _empty_gradients(grad, direct, x, weight, rstd, offset, early, weighed)
    with torch.cuda.device_of(x):
        sums = triton_rows.rms_norm_backward(grad, direct, x, weight, rstd, grad_x, offset, early, weighed)
    return grad_x, grad_weight.copy_(sums) if weighed else grad_weight


@torch.library.impl(LIBRARY, 'rms_norm', 'Meta')
def _empty(x: Tensor, weight: Tensor, eps: float, offset: float, early: bool) -> tuple[Tensor, Tensor]:
    rows = x.numel() // max(1, x.shape[-1])
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(rows, dtype=torch.float32)


@torch.library.impl(LIBRARY, 'rms_norm_backward', 'Meta')
def _empty_gradients(
    grad: Tensor,
    direct: Tensor | None,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    offset: float,
    early: bool,
    weighed: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(weight if weighed else rstd[:0])
