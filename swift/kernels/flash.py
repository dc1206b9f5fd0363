"""Packed causal attention on the CPU as C++: no mask, no copies of keys, memory that grows with T alone.

    O = softmax(scale Q K^T) V  over the keys that a token sees: those before it in its sequence and, where the
    sequence continues another one, in that one.  FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2; logits may be
    capped (``c tanh(s / c)``) or have a sink, one more logit per head in the denominator.

bf16 multiplies on AMX tiles where the machine has them and sums in fp32; otherwise everything is fp32. Results depend
on neither the number of threads nor their timing.

Shapes: ``T`` tokens, ``H`` query heads, ``K`` key heads, ``D`` head width, ``N`` segments.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.core.types import Segments
from swift.kernels import compiled
from swift.kernels.compiled import function

WIDTHS = range(1, 257)
"""Head widths D that the kernel takes; odd ones cost as much as the next multiple of 32."""
SUFFIX = {torch.bfloat16: 'bf16', torch.float32: 'f32'}
TILES = True
"""Whether bf16 may use AMX tiles."""

LIBRARY = torch.library.Library('swift', 'FRAGMENT')
LIBRARY.define(
    'attention(Tensor q, Tensor k, Tensor v, Tensor table, Tensor? sinks, float scale, float cap, int window)'
    ' -> (Tensor, Tensor)'
)
LIBRARY.define(
    'attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor table, float scale,'
    ' float cap, int window) -> (Tensor, Tensor, Tensor, Tensor)'
)


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel computes these [1, heads, T, D]; a function of shapes, types and the machine only."""
    return (
        compiled.supported(q, k, v)
        and q.shape[0] == 1
        and q.shape[3] in WIDTHS
        and k.shape == v.shape == (1, k.shape[1], *q.shape[2:])
        and q.shape[1] % k.shape[1] == 0
        and _missing() is None
    )


@torch.compiler.assume_constant_result
def _missing() -> str | None:
    return compiled.missing()


def attend(
    q: Tensor,  # [1, H, T, D]
    k: Tensor,  # [1, K, T, D]
    v: Tensor,  # [1, K, T, D]
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of packed segments that ``takes`` accepts.

    Args:
        window: how many positions a token sees, itself included; positions of a segment go on after its prefix.
        cap: logits become ``cap tanh(logits / cap)``.
        sinks: [H] one more logit in the denominator of each head.

    Returns:
        [1, T, H, D], contiguous.
    """
    table = _table(segments)
    sinks = None if sinks is None else sinks.reshape(-1)
    return _Attention.apply(q, k, v, table, sinks, scale, cap or 0.0, window or 0)


@lru_cache(maxsize=64)
def _table(segments: Segments) -> Tensor:
    """Starts, lengths and parents. [3, N]"""
    return torch.tensor([segments.starts[:-1], segments.lengths, segments.parents], dtype=torch.int64)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, table: Tensor, sinks: Tensor | None, scale, cap, window
    ) -> Tensor:
        out, lse = torch.ops.swift.attention(q, k, v, table, sinks, scale, cap, window)
        ctx.save_for_backward(q, k, v, out, lse, table, sinks)
        ctx.options = scale, cap, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, v, out, lse, table, sinks = ctx.saved_tensors
        dq, dk, dv, delta = torch.ops.swift.attention_backward(grad, q, k, v, out, lse, table, *ctx.options)
        d_sinks = None
        if sinks is not None:  # its weight is exp(sink - lse), its value zero
            d_sinks = -(torch.exp(sinks.float()[:, None] - lse) * delta).sum(1).to(sinks.dtype)
        return dq, dk, dv, None, d_sinks, None, None, None


@torch.library.impl(LIBRARY, 'attention', 'CPU')
def _forward_cpu(q, k, v, table, sinks, scale: float, cap: float, window: int) -> tuple[Tensor, Tensor]:
    q, k, v = (_along_width(each) for each in (q, k, v))
    out, lse = _empty(q, k, v, table, sinks, scale, cap, window)
    at = _strides(q, k, v)
    sinks = None if sinks is None else sinks.float()
    run = function(f'attention_forward_{SUFFIX[q.dtype]}', 'ppp pppp p iiiii ff ii')
    run(*_addresses(q, k, v), out, lse, sinks, at, table, *_sizes(q, k, table), scale, cap, window, TILES)
    return out, lse


@torch.library.impl(LIBRARY, 'attention_backward', 'CPU')
def _backward_cpu(grad, q, k, v, out, lse, table, scale: float, cap: float, window: int):
    heads_first = _along_width(grad).transpose(1, 2)  # [1, H, T, D], as q
    q, k, v = (_along_width(each) for each in (q, k, v))
    dq, dk, dv, delta = _empty_gradients(grad, q, k, v, out, lse, table, scale, cap, window)
    at = _strides(q, k, v, heads_first, dq, dk, dv)
    run = function(f'attention_backward_{SUFFIX[q.dtype]}', 'pppp ppp ppp pp iiiii ff ii')
    addresses = _addresses(heads_first, q, k, v), _addresses(dq, dk, dv)
    run(*addresses[0], out, lse, delta, *addresses[1], at, table, *_sizes(q, k, table), scale, cap, window, TILES)
    return dq, dk, dv, delta


@torch.library.impl(LIBRARY, 'attention', 'Meta')
def _empty(q, k, v, table, sinks, scale: float, cap: float, window: int) -> tuple[Tensor, Tensor]:
    _, heads, tokens, width = q.shape
    return q.new_empty(1, tokens, heads, width), q.new_empty(heads, tokens, dtype=torch.float32)


@torch.library.impl(LIBRARY, 'attention_backward', 'Meta')
def _empty_gradients(grad, q, k, v, out, lse, table, scale: float, cap: float, window: int):
    """Gradients lie as transformers' heads do: [1, T, heads, D] seen as [1, heads, T, D]."""
    lying = (each.new_empty(1, each.shape[2], each.shape[1], each.shape[3]).transpose(1, 2) for each in (q, k, v))
    return *lying, torch.empty_like(lse)


def _along_width(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*views: Tensor) -> Tensor:
    """Token and head strides of [1, heads, T, D]. [views, 2]"""
    return torch.tensor([(each.stride(2), each.stride(1)) for each in views], dtype=torch.int64)


def _addresses(*views: Tensor) -> list[int]:
    return [each.data_ptr() for each in views]


def _sizes(q: Tensor, k: Tensor, table: Tensor) -> tuple[int, ...]:
    """Segments, tokens, heads, key heads, width."""
    return table.shape[1], q.shape[2], q.shape[1], k.shape[1], q.shape[3]
