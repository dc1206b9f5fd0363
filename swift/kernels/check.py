"""Every kernel beside its plain twin: on which shapes they are compared and timed.

A room adds a row to ``CASES``; tests hold ``fast`` against ``plain``, ``swift bench kernels`` times both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from swift.core.types import Segments
from swift.kernels import (
    adamw,
    attention,
    divergence,
    dropout,
    gated,
    lora,
    norm,
    product,
    residual,
    rotary,
    segmentwise,
)
from swift.kernels.divergence import Divergence, Predictions
from swift.kernels.logprobs import Head, linear_logprobs
from swift.kernels.segmentwise import Rules


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel. Inputs that require gradients get them, if any does; outputs are one tensor."""

    name: str
    make: Callable[[Any], tuple]  # shape to inputs
    fast: Callable[..., torch.Tensor]
    plain: Callable[..., torch.Tensor]
    shapes: dict[str, Any]  # by a name for people


@dataclass(frozen=True, slots=True)
class Heads:
    """A pack and its attention."""

    segments: Segments
    heads: int = 9
    key_heads: int = 3
    width: int = 64
    dtype: torch.dtype = torch.bfloat16
    device: str = 'cpu'


def _heads(shape: Heads) -> tuple:
    random = torch.Generator().manual_seed(0)
    tokens = shape.segments.total
    q, k, v = (
        torch.randn(1, tokens, count, shape.width, generator=random).to(shape.device, shape.dtype)
        for count in (shape.heads, shape.key_heads, shape.key_heads)
    )
    return *(each.transpose(1, 2).requires_grad_() for each in (q, k, v)), shape.segments


def _fast_attention(q, k, v, segments) -> torch.Tensor:
    return attention.packed_attention(torch.nn.Module(), q, k, v, None, segments=segments)[0]


def _plain_attention(q, k, v, segments) -> torch.Tensor:
    return segmentwise.attend(q, k, v, segments, Rules(q.shape[-1] ** -0.5))


def _repeated(q, k, v, segments) -> torch.Tensor:
    """Every suffix with a prefix of its own, as a pack without sharing would have it; the suffixes' outputs."""
    spans = [range(start, start + n) for start, n in zip(segments.starts[:-1], segments.lengths, strict=True)]
    pairs = [(spans[parent], spans[i]) for i, parent in enumerate(segments.parents) if parent >= 0]
    tokens = torch.tensor([token for pair in pairs for span in pair for token in span], device=q.device)
    whole = Segments(tuple(len(prefix) + len(suffix) for prefix, suffix in pairs))
    out = segmentwise.attend(q[:, :, tokens], k[:, :, tokens], v[:, :, tokens], whole, Rules(q.shape[-1] ** -0.5))
    parts = out.split(whole.lengths, 1)
    return torch.cat([part[:, len(prefix) :] for part, (prefix, _) in zip(parts, pairs, strict=True)], 1)


def _shared(q, k, v, segments) -> torch.Tensor:
    parts = _fast_attention(q, k, v, segments).split(segments.lengths, 1)
    return torch.cat([part for part, parent in zip(parts, segments.parents, strict=True) if parent >= 0], 1)


def _random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _norm(shape: tuple[int, int, torch.dtype]) -> tuple:
    tokens, width, dtype = shape
    inputs = _random(1, tokens, width, dtype=dtype), _random(width, dtype=dtype, seed=1)
    return *(each.requires_grad_() for each in inputs), 1e-6


def _sum(shape: tuple[int, int, torch.dtype]) -> tuple:
    x, weight, eps = _norm(shape)
    return x, _random(*x.shape, dtype=x.dtype, seed=2).requires_grad_(), weight, eps


def _gate(shape: tuple[int, int, torch.dtype]) -> tuple:
    tokens, width, dtype = shape
    return tuple(_random(1, tokens, width, dtype=dtype, seed=seed).requires_grad_() for seed in (0, 1))


def _turning(shape: tuple[int, int, int, torch.dtype]) -> tuple:
    tokens, heads, width, dtype = shape
    angles = _random(1, tokens, width // 2, dtype=torch.float32).repeat(1, 1, 2)
    x = _random(1, tokens, heads, width, dtype=dtype).transpose(1, 2).requires_grad_()
    return x, angles.cos().to(dtype), angles.sin().to(dtype)


def _head(shape: tuple[int, int, int, torch.dtype]) -> tuple:
    """Hidden states, the weight of the head, targets."""
    rows, width, vocabulary, dtype = shape
    hidden, weight = _random(rows, width, dtype=dtype), _random(vocabulary, width, dtype=dtype, seed=1) * width**-0.5
    return hidden.requires_grad_(), weight.requires_grad_(), torch.arange(rows) * 7919 % vocabulary


def _plain_head(hidden, weight, targets) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float()
    return -torch.nn.functional.cross_entropy(logits, targets, reduction='none')


TEACHING = Divergence(beta=0.3, temperature=0.9)


def _taught(shape: tuple[int, int, int, torch.dtype]) -> tuple:
    """Hidden states and heads of a student and of its teacher."""
    hidden, weight, _ = _head(shape)
    return hidden, weight, hidden.detach().flip(-1), weight.detach()


def _fast_divergence(hidden, weight, taught, teacher) -> torch.Tensor:
    return TEACHING(Predictions(hidden, Head(weight)), Predictions(taught, Head(teacher)))


def _plain_divergence(hidden, weight, taught, teacher) -> torch.Tensor:
    student, wanted = (torch.nn.functional.linear(*each) for each in ((hidden, weight), (taught, teacher)))
    return divergence.plain(student, wanted, TEACHING)


def _adapters(shape: tuple[int, int, int, torch.dtype]) -> tuple:
    """x, then W, A and B of three layers that share it."""
    tokens, width, rank, dtype = shape
    made = [_random(tokens, width, dtype=dtype).requires_grad_()]
    for i, out in enumerate((width, width // 4, width // 4)):
        made.append(_random(out, width, dtype=dtype, seed=3 * i) * width**-0.5)
        made.append((_random(rank, width, dtype=dtype, seed=3 * i + 1) * width**-0.5).requires_grad_())
        made.append(_random(out, rank, dtype=dtype, seed=3 * i + 2).requires_grad_())
    return tuple(made)


def _members(inputs: tuple) -> list[lora.Member]:
    return [lora.Member(lambda w=inputs[i]: w, None, inputs[i + 1], inputs[i + 2], 2.0) for i in range(1, 10, 3)]


def _dropped(drop: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    def dropped(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        drop(x, out, torch.tensor(7), 0.1, add=False)
        return out

    return dropped


def _updated(update_: Callable[..., None]) -> Callable[..., torch.Tensor]:
    """Weight and moments after an update, as one tensor."""
    rule = adamw.Rule(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, step=3, scale=0.5, key=7)

    def updated(*tensors: torch.Tensor) -> torch.Tensor:
        weight, grad, mean, square = (each.clone() for each in tensors)
        update_(weight, grad, mean, square, rule)
        return torch.stack([weight, mean, square])

    return updated


def _moments(shape: tuple[int, torch.dtype]) -> tuple:
    count, dtype = shape
    weight, grad, mean, square = (_random(count, dtype=dtype, seed=seed) for seed in range(4))
    return weight, grad, mean, square.square()


PACKS = {
    '32 x 64': Heads(Segments((64,) * 32)),
    '13 of about 150': Heads(Segments((97, 203, 150, 131, 180, 166, 144, 120, 199, 158, 173, 140, 187))),
    '4 x 512': Heads(Segments((512,) * 4)),
    '1 x 2048': Heads(Segments((2048,))),
    '13 of about 150, fp32': Heads(
        Segments((97, 203, 150, 131, 180, 166, 144, 120, 199, 158, 173, 140, 187)), dtype=torch.float32
    ),
}
GROUPS = {
    '4 groups of 300 + 2 x 100': Heads(Segments((300, 100, 100) * 4, (-1, 0, 0, -1, 3, 3, -1, 6, 6, -1, 9, 9))),
    '1 group of 1024 + 8 x 128': Heads(Segments((1024, *(128,) * 8), (-1, *(0,) * 8))),
}

CASES: dict[str, Case] = {
    'attention': Case('attention', _heads, _fast_attention, _plain_attention, PACKS),
    'prefix attention': Case('prefix attention', _heads, _shared, _repeated, GROUPS),
    'norm': Case(
        'norm',
        _norm,
        norm.rms_norm,
        norm.plain,
        {'2048 x 576': (2048, 576, torch.bfloat16), '2048 x 576, fp32': (2048, 576, torch.float32)},
    ),
    'residual': Case(
        'residual',
        _sum,
        lambda *inputs: torch.cat(residual.residual_norm(*inputs), -1),
        lambda *inputs: torch.cat(residual.plain(*inputs), -1),
        {'2048 x 576': (2048, 576, torch.bfloat16), '2048 x 576, fp32': (2048, 576, torch.float32)},
    ),
    'gated': Case(
        'gated',
        _gate,
        gated.gated,
        lambda gate, up: torch.nn.functional.silu(gate) * up,
        {'2048 x 1536': (2048, 1536, torch.bfloat16), '2048 x 1536, fp32': (2048, 1536, torch.float32)},
    ),
    'rotary': Case(
        'rotary',
        _turning,
        lambda x, cos, sin: rotary.rotary(x, x[:, :1], cos, sin)[0],
        rotary.plain,
        {'2048 x 9 x 64': (2048, 9, 64, torch.bfloat16), '2048 x 9 x 64, fp32': (2048, 9, 64, torch.float32)},
    ),
    'head': Case(
        'head',
        _head,
        lambda hidden, weight, targets: linear_logprobs(hidden, Head(weight), targets).logps,
        _plain_head,
        {
            '200 x 576 x 4099': (200, 576, 4099, torch.bfloat16),
            '200 x 576 x 4099, fp32': (200, 576, 4099, torch.float32),
        },
    ),
    'divergence': Case(
        'divergence',
        _taught,
        _fast_divergence,
        _plain_divergence,
        {
            '200 x 576 x 4099': (200, 576, 4099, torch.bfloat16),
            '200 x 576 x 4099, fp32': (200, 576, 4099, torch.float32),
        },
    ),
    'lora': Case(
        'lora',
        _adapters,
        lambda *inputs: torch.cat(lora.lora_group(inputs[0], _members(inputs)), -1),
        lambda *inputs: torch.cat(lora.plain_group(inputs[0], _members(inputs)), -1),
        {'2048 x 576 x 8': (2048, 576, 8, torch.bfloat16), '2048 x 576 x 8, fp32': (2048, 576, 8, torch.float32)},
    ),
    'product': Case(
        'product',
        lambda shape: (_random(*shape[:2], dtype=shape[3]), _random(*shape[1:3], dtype=shape[3], seed=1)),
        lambda left, right: product.product((left, right)),
        torch.mm,
        {
            '1024 x 576 x 576': (1024, 576, 576, torch.bfloat16),
            '1024 x 576 x 576, fp32': (1024, 576, 576, torch.float32),
        },
    ),
    'dropout': Case(
        'dropout',
        lambda shape: (_random(*shape[:2], dtype=shape[2]),),
        _dropped(dropout.dropout_),
        _dropped(dropout.plain_dropout_),
        {'2048 x 576': (2048, 576, torch.bfloat16), '2048 x 576, fp32': (2048, 576, torch.float32)},
    ),
    'adamw': Case(
        'adamw',
        _moments,
        _updated(adamw.update_),
        _updated(adamw.plain_),
        {'100003': (100003, torch.bfloat16), '100003, fp32': (100003, torch.float32)},
    ),
}
