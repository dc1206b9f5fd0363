"""Attention of sequences that share a prefix, by torch's flash kernels: no mask, no copies of the prefix.

Every token attends causally to its own segment and wholly to each segment that this one continues. Each of these is a
call of a flash kernel; calls are merged by their log-sum-exps, and the backward pass of each call gets the merged
output and log-sum-exp, with which its weights ``exp(S - lse)`` are those of the whole:

    lse = log sum_c exp(lse_c);  O = sum_c exp(lse_c - lse) O_c;  dQ = sum_c dQ_c;  dK, dV: each call's own

(FlashAttention-2, arXiv 2307.08691, section 3.1.2, whose backward pass needs Q, K, V, O, lse and dO only.) All
continuations of one prefix are one sequence of queries, so a call has as many sequences as there are prefixes. On CUDA
a call is one launch for all of them; this is also how packed sequences without prefixes run there.

Shapes: ``T`` tokens, ``H`` query heads, ``K`` key heads, ``D`` head width, ``N`` sequences of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from swift.core.types import Segments

aten: Any = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Call:
    """Sequences of queries against sequences of keys. Indices None: all tokens."""

    query_lengths: tuple[int, ...]  # N
    key_lengths: tuple[int, ...]  # N
    causal: bool
    query_tokens: Tensor | None = None  # [Tq], no token twice
    key_tokens: Tensor | None = None  # [Tk], no token twice
    query_starts: Tensor | None = None  # [N + 1] int32 on the device, where a kernel wants them
    key_starts: Tensor | None = None


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a flash kernel computes these [1, heads, T, D]; a function of shapes, types and the machine only."""
    fits = q.shape[0] == 1 and k.shape == v.shape and q.shape[1] % k.shape[1] == 0 and q.shape[3] == k.shape[3]
    if q.device.type == 'cpu':
        return fits
    return fits and q.device.type == 'cuda' and q.shape[3] % 8 == 0 and q.shape[3] <= 256 and _cuda_flash(q.dtype)


@torch.compiler.assume_constant_result
def _cuda_flash(dtype: torch.dtype) -> bool:
    return (
        dtype in (torch.bfloat16, torch.float16)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability() >= (8, 0)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, scale: float, window: int | None = None) -> Tensor:
    """Causal attention of packed segments, prefixes included.

    Args:
        q: [1, H, T, D]; k, v: [1, K, T, D].
        window: positions that a token sees, itself included; on CUDA, without prefixes.

    Returns:
        [1, T, H, D], contiguous.
    """
    assert window is None or (q.is_cuda and not segments.prefix_of), 'windows do not reach across calls'
    q, k, v = (each[0].transpose(0, 1) for each in (q, k, v))  # [T, heads, D]
    return _Merged.apply(q, k, v, _calls(segments, q.device), scale, window)[None]


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, calls: list[Call], scale: float, window: int | None) -> Tensor:
        flash = FLASH[q.device.type]
        out, lse = flash.forward(q, k, v, calls[0], scale, window)  # [T, H, D], [H, T]
        if len(calls) > 1:
            wide = out.to(lse.dtype)
            for call in calls[1:]:
                at = call.query_tokens
                more, its_lse = flash.forward(*_gathered(call, q, k, v), call, scale, None)
                both = torch.logaddexp(lse[:, at], its_lse)
                shares = [torch.exp(each - both).T[..., None] for each in (lse[:, at], its_lse)]  # [Tq, H, 1]
                wide[at] = wide[at] * shares[0] + more * shares[1]
                lse[:, at] = both
            out = wide.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.scale, ctx.window = calls, scale, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        flash, calls = FLASH[q.device.type], ctx.calls
        first = flash.backward(grad, q, k, v, out, lse, calls[0], ctx.scale, ctx.window)
        if len(calls) == 1:
            return *first, None, None, None
        dq, dk, dv = (each.to(lse.dtype) for each in first)
        for call in calls[1:]:
            at = call.query_tokens
            part = flash.backward(
                grad[at], *_gathered(call, q, k, v), out[at], lse[:, at].contiguous(), call, ctx.scale, None
            )
            for whole, tokens, more in zip((dq, dk, dv), (at, call.key_tokens, call.key_tokens), part, strict=True):
                whole[tokens] += more
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _gathered(call: Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q[call.query_tokens], k[call.key_tokens], v[call.key_tokens]


# ------------------------------------------------------------------------------------------------------------ calls
@lru_cache(maxsize=16)
def _calls(segments: Segments, device: torch.device) -> list[Call]:
    """Own segments first, then the nearest prefixes, the prefixes of those, and so on. Copied without waiting."""
    spans = [torch.arange(start, start + n) for start, n in zip(segments.starts[:-1], segments.lengths, strict=True)]
    calls = [_call(segments.lengths, segments.lengths, None, None, device)]
    ancestors = segments.parents
    while any(each >= 0 for each in ancestors):
        groups: dict[int, list[int]] = {}  # by ancestor: the segments that see it
        for segment, ancestor in enumerate(ancestors):
            if ancestor >= 0:
                groups.setdefault(ancestor, []).append(segment)
        queries = torch.cat([spans[segment] for group in groups.values() for segment in group])
        keys = torch.cat([spans[ancestor] for ancestor in groups])
        lengths = tuple(sum(segments.lengths[segment] for segment in group) for group in groups.values())
        calls.append(_call(lengths, tuple(segments.lengths[each] for each in groups), queries, keys, device))
        ancestors = tuple(segments.parents[each] if each >= 0 else -1 for each in ancestors)
    return calls


def _call(
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    queries: Tensor | None,
    keys: Tensor | None,
    device: torch.device,
) -> Call:
    if device.type == 'cpu':
        return Call(query_lengths, key_lengths, queries is None, queries, keys)
    send = lambda each: None if each is None else each.pin_memory().to(device, non_blocking=True)
    starts = [send(torch.tensor((0, *each)).cumsum(0).to(torch.int32)) for each in (query_lengths, key_lengths)]
    return Call(query_lengths, key_lengths, queries is None, send(queries), send(keys), *starts)


# ---------------------------------------------------------------------------------------------------- flash kernels
@dataclass(frozen=True, slots=True)
class Flash:
    """A kernel's two passes over a call: [Tq, H, D], [Tk, K, D] to out [Tq, H, D], lse [H, Tq]; and the gradients."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, ...]]


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float, _window: None) -> tuple[Tensor, Tensor]:
    outs, lses = [], []
    for parts in _sequences(call, (q,), (k, v)):
        q_part, k_part, v_part = (_batched(each) for each in parts)
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(
            q_part, k_part, v_part, 0.0, call.causal, scale=scale
        )
        outs.append(out[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, 1)


def _cpu_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    call: Call,
    scale: float,
    _window: None,
) -> tuple[Tensor, ...]:
    parts: list[tuple[Tensor, ...]] = []
    for grad_part, q_part, out_part, lse_part, k_part, v_part in _sequences(call, (grad, q, out, lse.T), (k, v)):
        operands = [_batched(each) for each in (grad_part, q_part, k_part, v_part, out_part)]
        found = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *operands, lse_part.T.contiguous()[None], 0.0, call.causal, scale=scale
        )
        parts.append(tuple(each[0].transpose(0, 1) for each in found))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _sequences(call: Call, of_queries: tuple[Tensor, ...], of_keys: tuple[Tensor, ...]) -> zip:
    """Each sequence's part of tensors whose first dimension is that of the tokens."""
    parts = [each.split(call.query_lengths) for each in of_queries] + [each.split(call.key_lengths) for each in of_keys]
    return zip(*parts, strict=True)


def _batched(x: Tensor) -> Tensor:
    """[L, heads, D] as [1, heads, L, D]."""
    return x.transpose(0, 1)[None]


def _limits(call: Call, window: int | None) -> tuple[Tensor | None, Tensor | None, int, int, dict[str, int | None]]:
    reach = {'window_size_left': None if window is None else window - 1, 'window_size_right': 0 if window else None}
    return call.query_starts, call.key_starts, max(call.query_lengths), max(call.key_lengths), reach


def _cuda_forward(
    q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    *sizes, reach = _limits(call, window)
    causal = call.causal and window is None  # a window that ends at the token is causal
    out, lse, *_ = aten._flash_attention_forward(q, k, v, *sizes, 0.0, causal, False, scale=scale, **reach)
    return out, lse


def _cuda_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    call: Call,
    scale: float,
    window: int | None,
) -> tuple[Tensor, ...]:
    *sizes, reach = _limits(call, window)
    causal = call.causal and window is None
    state, unused = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)  # of dropout
    return aten._flash_attention_backward(
        grad.contiguous(), q, k, v, out, lse, *sizes, 0.0, causal, state, unused, scale=scale, **reach
    )


FLASH = {'cpu': Flash(_cpu_forward, _cpu_backward), 'cuda': Flash(_cuda_forward, _cuda_backward)}
