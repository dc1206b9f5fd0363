"""Rotary positions of queries and keys in one pass each way; nothing but the angles is kept.

``y = x cos(t) + turn(x) sin(t)``: pairs of numbers turn by the angles of their position (arXiv 2104.09864, eq. 34).
A pair is (i, i + R/2) - Llama - or, ``adjacent``, (2 i, 2 i + 1). Arithmetic is fp32 with one rounding.

Shapes: ``B`` rows, ``H`` heads, ``T`` tokens, ``D`` head width, ``R`` <= D numbers of a head that turn.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.kernels import device
from swift.kernels.compiled import function
from swift.kernels.norm import LIBRARY, SUFFIX

LIBRARY.define('rotary(Tensor x, Tensor cos, Tensor sin, bool adjacent, bool back) -> Tensor')


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, adjacent: bool = False) -> tuple[Tensor, Tensor]:
    """Turn queries [B, H, T, D] and keys [B, K, T, D] by angles [B or 1, T, R]; fused where a kernel takes them.

    The angles may be fp32 beside bf16 heads; both results have their heads' dtype. Angles get no gradient.
    """
    if not takes(q, k, cos, sin):
        return plain(q, cos, sin, adjacent=adjacent), plain(k, cos, sin, adjacent=adjacent)
    return _Rotary.apply(q, cos, sin, adjacent), _Rotary.apply(k, cos, sin, adjacent)


def takes(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the fused kernel computes these."""
    return (
        q.dim() == k.dim() == 4
        and cos.dim() == 3
        and cos.shape == sin.shape
        and cos.shape[0] in (1, q.shape[0])
        and q.shape[2] == k.shape[2] == cos.shape[1]
        and cos.shape[2] % 2 == 0
        and cos.shape[2] <= q.shape[3]
        and device.fused(q, k)
        and device.fused(cos, sin)
        and cos.device == q.device
        and cos.dtype in (q.dtype, torch.float32)
        and not cos.requires_grad
        and not sin.requires_grad
    )


def plain(x: Tensor, cos: Tensor, sin: Tensor, *, adjacent: bool = False) -> Tensor:
    """The same of one tensor in torch's operations."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = (each.to(wide)[:, None] for each in (cos, sin))  # [B, 1, T, R]
    turning, rest = x.to(wide).split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], -1)
    if adjacent:
        turned = torch.stack([-turning[..., 1::2], turning[..., ::2]], -1).flatten(-2)
    else:
        first, second = turning.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    return torch.cat([turning * cos + turned * sin, rest], -1).to(x.dtype)


class _Rotary(torch.autograd.Function):
    """The gradient is the same turn backwards."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.adjacent = adjacent
        return torch.ops.swift.rotary(x, cos, sin, adjacent, False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return torch.ops.swift.rotary(grad, *ctx.saved_tensors, ctx.adjacent, True), None, None, None


@torch.library.impl(LIBRARY, 'rotary', 'CPU')
def _turn_cpu(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool, back: bool) -> Tensor:
    y = _empty(x, cos, sin, adjacent, back)
    x = x if x.stride(-1) == 1 else x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    run = function(f'rotary_{SUFFIX[x.dtype]}_{SUFFIX[cos.dtype]}', 'pppp ii iiiii iiii')
    sequence = 0 if len(cos) == 1 else cos.stride(0)
    run(x.data_ptr(), cos, sin, y.data_ptr(), adjacent, back, *x.shape, cos.shape[2], *x.stride()[:3], sequence)
    return y


@torch.library.impl(LIBRARY, 'rotary', 'CUDA')
def _turn_cuda(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool, back: bool) -> Tensor:
    from swift.kernels import triton_rows

    y = _empty(x, cos, sin, adjacent, back)
    x = x if x.stride(-1) == 1 else x.contiguous()
    with torch.cuda.device_of(x):
        triton_rows.rotary(x, cos.contiguous(), sin.contiguous(), y, adjacent, back)
    return y


@torch.library.impl(LIBRARY, 'rotary', 'Meta')
def _empty(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool, back: bool) -> Tensor:
    """[B, H, T, D] in the memory of [B, T, H, D], as projections give it."""
    batch, heads, tokens, width = x.shape
    return x.new_empty(batch, tokens, heads, width).transpose(1, 2)
