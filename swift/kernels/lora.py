"""Frozen linear layers with low-rank adapters that share one input: q, k and v, gate and up, or one alone.

    y_i = x W_i^T + b_i + s_i drop(x) A_i^T B_i^T          LoRA, arXiv 2106.09685, eq. 3

One thin product computes ``drop(x) A^T`` for all members, the adapters' share is summed by the same call that
multiplies (``product``), and so is the gradient of x over all members. W is frozen and has no gradient. Members of a
group have one dropout mask, which is computed again in the backward pass.

Shapes: ``T`` tokens, ``d`` inputs, ``o`` outputs, ``r`` rank, ``R`` sum of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.kernels.dropout import dropout_, new_seed
from swift.kernels.product import product


@dataclass(frozen=True, slots=True)
class Member:
    """One frozen layer and its adapter. ``weight()`` gives W [o, d]; a quantised layer unpacks it there."""

    weight: Callable[[], Tensor]
    bias: Tensor | None
    a: Tensor  # [r, d]
    b: Tensor  # [o, r]
    scale: float


class _Group(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, members: Sequence[Member], p: float, *adapters: Tensor) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])  # [T, d]
        ctx.members, ctx.p = members, p
        seed = new_seed() if p else rows.new_empty(0)
        down = torch.cat([member.a for member in members])  # [R, d]
        seen = dropout_(rows, torch.empty_like(rows), seed, p) if p else rows
        inner = product((seen, down.t()))  # [T, R]
        out = []
        for member, part in zip(members, _split(inner, members), strict=True):
            adapter = part, (member.b * member.scale).t()
            y = product((rows, member.weight().t()), adapter, bias=member.bias)  # [T, o]
            out.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(rows, inner, seed, *adapters)
        ctx.shape = x.shape
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, inner, seed, *_ = ctx.saved_tensors
        members, p = ctx.members, ctx.p
        grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
        parts = _split(inner, members)
        by_inner = torch.cat(
            [product((grad, member.b * member.scale)) for grad, member in zip(grads, members, strict=True)], 1
        )  # [T, R]
        by_b = [(grad.t() @ part).mul_(member.scale) for grad, part, member in zip(grads, parts, members, strict=True)]
        seen = dropout_(rows, torch.empty_like(rows), seed, p) if p else rows
        by_a = (by_inner.t() @ seen).split([len(member.a) for member in members])
        by_x = None
        if ctx.needs_input_grad[0]:
            down = torch.cat([member.a for member in members])
            terms = [(grad, member.weight()) for grad, member in zip(grads, members, strict=True)]
            if p:
                by_x = product(*terms).add_(dropout_(product((by_inner, down)), seen, seed, p))
            else:
                by_x = product(*terms, (by_inner, down))
            by_x = by_x.view(ctx.shape)
        adapters = [each for pair in zip(by_a, by_b, strict=True) for each in pair]
        return by_x, None, None, *adapters


def _split(inner: Tensor, members: Sequence[Member]) -> tuple[Tensor, ...]:
    return inner.split([len(member.a) for member in members], 1)


def lora_group(x: Tensor, members: Sequence[Member], *, dropout: float = 0.0) -> tuple[Tensor, ...]:
    """Outputs [..., o_i] of all members for the input x [..., d].

    Everything is of one dtype. Gradients go to x and to each member's ``a`` and ``b``.
    """
    return _Group.apply(x, tuple(members), dropout, *(each for member in members for each in (member.a, member.b)))


def plain_group(x: Tensor, members: Sequence[Member]) -> tuple[Tensor, ...]:
    """The plain twin without dropout."""
    return tuple(F.linear(x, m.weight(), m.bias) + F.linear(F.linear(x, m.a), m.b) * m.scale for m in members)
