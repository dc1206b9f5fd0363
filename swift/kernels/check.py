"""Every kernel beside its plain twin: on which shapes they are compared and timed.

A room adds a row to ``CASES``; tests hold ``fast`` against ``plain``, ``swift bench kernels`` times both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from swift.core.types import Segments
from swift.kernels import attention, gated, norm, rotary, segmentwise
from swift.kernels.segmentwise import Rules


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel. Inputs that require gradients get them; outputs are one tensor."""

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


def _gate(shape: tuple[int, int, torch.dtype]) -> tuple:
    tokens, width, dtype = shape
    return tuple(_random(1, tokens, width, dtype=dtype, seed=seed).requires_grad_() for seed in (0, 1))


def _turning(shape: tuple[int, int, int, torch.dtype]) -> tuple:
    tokens, heads, width, dtype = shape
    angles = _random(1, tokens, width // 2, dtype=torch.float32).repeat(1, 1, 2)
    x = _random(1, tokens, heads, width, dtype=dtype).transpose(1, 2).requires_grad_()
    return x, angles.cos().to(dtype), angles.sin().to(dtype)


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
}
