"""Packed attention: N sequences end to end in one row, each attending causally to itself only, without a mask.

It is registered with transformers' AttentionInterface, so that any model which calls the interface uses it with no
patch; ``segments`` travels as a keyword argument of ``model.forward``. ``probe`` finds out, by running the model,
whether every layer really honours it; a model that does not is run on one sequence at a time.

Shapes: ``T`` tokens, ``H`` query heads, ``K`` key heads, ``D`` head width, ``L`` tokens of one segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from swift.core.types import Segments

NAME = 'swift_packed'

# Largest relative difference of a packed and a separate forward that the probe takes for rounding. Models reduce
# in fp32 inside even when their weights are fp64.
PROBE_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class Uncovered(Exception):
    """A layer asks for attention that this kernel does not compute."""


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [1, H, T, D]
    key: Tensor,  # [1, K, T, D]
    value: Tensor,  # [1, K, T, D]
    attention_mask: Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface over the segments of a pack. Returns ([1, T, H, D], None)."""
    if attention_mask is not None or position_bias is not None:
        raise Uncovered('the model hands its attention a mask or a position bias of its own')
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise Uncovered('packed attention takes one row without a cache')
    causal = getattr(module, 'is_causal', True) if is_causal is None else is_causal
    lengths = segments.lengths if segments is not None else (query.shape[2],)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # split, not slices: its backward is one concatenation instead of a full-size zero tensor per segment
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    if softcap is None and s_aux is None:
        outs = [_sdpa(q, k, v, causal, sliding_window, scale, dropout) for q, k, v in parts]
    else:
        outs = [_explicit(q, k, v, causal, sliding_window, scale, dropout, softcap, s_aux) for q, k, v in parts]
    return torch.cat(outs, 2).transpose(1, 2).contiguous(), None


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, scale: float, dropout: float) -> Tensor:
    """One segment [1, H, L, D] by torch's kernel; a mask only where the window is shorter than the segment."""
    mask = _mask(q.shape[2], causal, window, q.device) if window is not None and window < q.shape[2] else None
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=causal and mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One segment with explicit scores, for softcap (Gemma 2) and attention sinks (gpt-oss).

    ``scores = c tanh(q k^T scale / c)``; a sink is one more logit per head in the softmax's denominator.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * scale  # [1, H, L, L]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    mask = _mask(q.shape[2], causal, window, q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, float('-inf'))
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(1, q.shape[1], q.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=_reduction(scores.dtype)).to(q.dtype)
    weights = weights[..., : k.shape[2]]
    return F.dropout(weights, dropout) @ v


def _reduction(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _mask(length: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """True where a query (row) sees a key (column): the last ``window`` positions up to itself. [L, L]"""
    if not causal and window is None:
        return None
    at = torch.arange(length, device=device)
    distance = at[:, None] - at[None, :]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen &= distance.abs() < window
    return seen


AttentionInterface.register(NAME, packed_attention)


def install(model: PreTrainedModel, max_length: int) -> str | None:
    """Make ``model`` use packed attention for rows of up to ``max_length`` tokens.

    Returns None, or why the model cannot pack; then it is left with the attention it came with.
    """
    before = model.config._attn_implementation or 'eager'
    reason = _long_range(model, max_length)
    if reason is None:
        with _evaluating(model), torch.no_grad():
            reason = _probe(model, before)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _long_range(model: PreTrainedModel, max_length: int) -> str | None:
    """Attention patterns that only show beyond a length the probe does not reach."""
    config = model.config.get_text_config()
    chunk = getattr(config, 'attention_chunk_size', None)
    if 'chunked_attention' in (getattr(config, 'layer_types', None) or ()) and chunk and chunk < max_length:
        return f'chunked attention of {chunk} tokens is shorter than the {max_length} tokens of a row'
    return None


def _probe(model: PreTrainedModel, before: str) -> str | None:
    """Two packed segments against two calls, and a change of the first that must not reach the second."""
    device, vocabulary = next(model.parameters()).device, model.config.get_text_config().vocab_size
    ids = (torch.arange(23, device=device) * 7919 + 13) % vocabulary
    first, second, other = ids[:12], ids[12:], (ids[:12] + 1) % vocabulary
    try:
        alone = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in (first, second)])
        model.set_attn_implementation(NAME)
        packed = _packed_logits(model, first, second)
        moved = _packed_logits(model, other, second)[len(first) :]
    except (Uncovered, TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
        return f'its layers do not take packed attention ({type(error).__name__}: {str(error)[:120]})'
    tolerance = PROBE_TOLERANCE[model.dtype]
    leak = _relative(moved, packed[len(first) :])
    if leak > tolerance / 10 and not torch.equal(moved, packed[len(first) :]):
        return f'a sequence sees the one packed before it (difference {leak:.1e})'
    difference = _relative(packed, alone)
    if difference > tolerance:
        return f'packed and separate sequences differ by {difference:.1e} (allowed {tolerance:.0e})'
    return None


def _packed_logits(model: PreTrainedModel, *parts: Tensor) -> Tensor:
    lengths = tuple(len(part) for part in parts)
    positions = torch.cat([torch.arange(n, device=parts[0].device) for n in lengths])
    return model(
        input_ids=torch.cat(parts)[None],
        position_ids=positions[None],
        segments=Segments(lengths),
        use_cache=False,
    ).logits[0]


def _relative(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / (b - b.mean()).norm().clamp_min(1e-30))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
