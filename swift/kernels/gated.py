"""Gated activations ``y = act(gate) up`` in one pass forward and one backward that keep nothing but their inputs.

SwiGLU and GeGLU (arXiv 2002.05202, eq. 6): SiLU, GELU by its tanh form, exact GELU. Arithmetic is fp32 with one
rounding. The halves of a packed projection are read, and their gradients written, where they lie.

Shapes: ``R`` rows (all leading dimensions), ``I`` width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.kernels import again, device
from swift.kernels.compiled import function
from swift.kernels.norm import LIBRARY, SUFFIX

Act = Literal['silu', 'gelu_tanh', 'gelu']
PLAIN: dict[Act, Callable[[Tensor], Tensor]] = {
    'silu': F.silu,
    'gelu_tanh': lambda x: F.gelu(x, approximate='tanh'),
    'gelu': F.gelu,
}
NUMBER = {name: i for i, name in enumerate(PLAIN)}  # how the kernels name them

LIBRARY.define('gated(Tensor gate, Tensor up, int act) -> Tensor')
LIBRARY.define('gated_backward(Tensor grad, Tensor gate, Tensor up, int act, bool packed) -> Tensor')


def gated(gate: Tensor, up: Tensor, act: Act = 'silu') -> Tensor:
    """``act(gate) * up``, both [..., I]; fused where a kernel takes them."""
    if not device.fused(gate, up):
        return PLAIN[act](gate) * up
    y = _Gated.apply(gate, up, NUMBER[act])
    return again.note(y, lambda: torch.ops.swift.gated(gate, up, NUMBER[act]))


def gated_packed(gate_up: Tensor, act: Act = 'silu') -> Tensor:
    """``gated`` of the halves of the last dimension: [..., 2 I] to [..., I]."""
    if not device.fused(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return PLAIN[act](gate) * up
    y = _GatedPacked.apply(gate_up, NUMBER[act])
    return again.note(y, lambda: torch.ops.swift.gated(*gate_up.chunk(2, -1), NUMBER[act]))


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor, act: int) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return torch.ops.swift.gated(gate, up, act)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad_gate, grad_up = torch.ops.swift.gated_backward(grad, *ctx.saved_tensors, ctx.act, False).unbind()
        return grad_gate, grad_up, None


class _GatedPacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor, act: int) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.act = act
        return torch.ops.swift.gated(*gate_up.chunk(2, -1), act)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (gate_up,) = ctx.saved_tensors
        return torch.ops.swift.gated_backward(grad, *gate_up.chunk(2, -1), ctx.act, True), None


@torch.library.impl(LIBRARY, 'gated', 'CPU')
def _forward_cpu(gate: Tensor, up: Tensor, act: int) -> Tensor:
    y = _empty(gate, up, act)
    gate, up = _rows(gate), _rows(up)
    run = function(f'gated_{SUFFIX[y.dtype]}', 'i ppp iiii')
    run(act, gate.data_ptr(), up.data_ptr(), y, *gate.shape, gate.stride(0), up.stride(0))
    return y


@torch.library.impl(LIBRARY, 'gated_backward', 'CPU')
def _backward_cpu(grad: Tensor, gate: Tensor, up: Tensor, act: int, packed: bool) -> Tensor:
    out = _empty_gradients(grad, gate, up, act, packed)
    grad, gate, up = grad.contiguous(), _rows(gate), _rows(up)
    first, second = (_rows(each) for each in (out.chunk(2, -1) if packed else out.unbind()))
    run = function(f'gated_backward_{SUFFIX[grad.dtype]}', 'i ppppp iiiii')
    strides = gate.stride(0), up.stride(0), first.stride(0)
    run(act, grad, gate.data_ptr(), up.data_ptr(), first.data_ptr(), second.data_ptr(), *gate.shape, *strides)
    return out


@torch.library.impl(LIBRARY, 'gated', 'CUDA')
def _forward_cuda(gate: Tensor, up: Tensor, act: int) -> Tensor:
    from swift.kernels import triton_rows

    y = _empty(gate, up, act)
    with torch.cuda.device_of(y):
        triton_rows.gated(_rows(gate), _rows(up), y, act)
    return y


@torch.library.impl(LIBRARY, 'gated_backward', 'CUDA')
def _backward_cuda(grad: Tensor, gate: Tensor, up: Tensor, act: int, packed: bool) -> Tensor:
    from swift.kernels import triton_rows

    out = _empty_gradients(grad, gate, up, act, packed)
    first, second = (_rows(each) for each in (out.chunk(2, -1) if packed else out.unbind()))
    with torch.cuda.device_of(out):
        triton_rows.gated_backward(grad.contiguous(), _rows(gate), _rows(up), first, second, act)
    return out


@torch.library.impl(LIBRARY, 'gated', 'Meta')
def _empty(gate: Tensor, up: Tensor, act: int) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@torch.library.impl(LIBRARY, 'gated_backward', 'Meta')
def _empty_gradients(grad: Tensor, gate: Tensor, up: Tensor, act: int, packed: bool) -> Tensor:
    """Both gradients side by side [..., 2 I], or one after the other [2, ..., I]."""
    shape = (*gate.shape[:-1], 2 * gate.shape[-1]) if packed else (2, *gate.shape)
    return gate.new_empty(shape)


def _rows(x: Tensor) -> Tensor:
    """[R, I] whose rows are dense, though they may lie apart; a view wherever it can be."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()
