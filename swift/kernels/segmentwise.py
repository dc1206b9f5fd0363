"""Packed attention by torch's own operations, one segment after another: the plain twin, and what takes everything.

Neighbours of equal length are one batch. A segment that continues another one gets the keys of that one before its
own. Softcap and sinks need explicit scores.

Shapes: ``H`` query heads, ``K`` key heads, ``D`` head width, ``B`` segments of one length, ``L`` their tokens, ``P``
tokens that they continue.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Segments


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token sees, and how its weights come about."""

    scale: float
    causal: bool = True
    window: int | None = None  # positions that a token sees, itself included
    cap: float | None = None  # logits become cap tanh(logits / cap)
    sinks: Tensor | None = None  # [H] one more logit in the denominator
    dropout: float = 0.0


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rules: Rules) -> Tensor:
    """Attention of [1, heads, T, D] within segments. Returns [1, T, H, D]."""
    one = _fused if rules.cap is None and rules.sinks is None else _explicit
    parts = _with_prefixes(q, k, v, segments) if segments.prefix_of else _batches(q, k, v, segments.lengths)
    outs = [one(q_part, k_part, v_part, rules) for q_part, k_part, v_part in parts]  # [B, H, L, D]
    return torch.cat([out.transpose(1, 2).reshape(1, -1, *out.shape[1:4:2]) for out in outs], 1)


def _batches(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> list[list[Tensor]]:
    """Neighbours of equal length as [B, heads, L, D]."""
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    # split, not slices: its backward is one concatenation instead of a full-size zero tensor per segment
    parts = zip(*(each.split(sizes, 2) for each in (q, k, v)), strict=True)
    return [
        [each[0].unflatten(1, (count, length)).transpose(0, 1) for each in part]
        for part, (length, count) in zip(parts, runs, strict=True)
    ]


def _with_prefixes(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> list[list[Tensor]]:
    """Each segment's queries [1, H, L, D], and the keys and values of its chain [1, K, P + L, D]."""
    queries, keys, values = (each.split(segments.lengths, 2) for each in (q, k, v))
    chains: list[tuple[int, ...]] = []
    for i, parent in enumerate(segments.parents):
        chains.append((*(chains[parent] if parent >= 0 else ()), i))
    joined = lambda parts, chain: torch.cat([parts[i] for i in chain], 2)
    return [[queries[i], joined(keys, chain), joined(values, chain)] for i, chain in enumerate(chains)]


def _fused(q: Tensor, k: Tensor, v: Tensor, rules: Rules) -> Tensor:
    """[B, H, L, D] by torch's kernel; a mask only where a rule hides something that causality does not."""
    bare = q.shape[2] == k.shape[2] and (rules.window is None or rules.window >= k.shape[2])
    mask = None if bare else _mask(q.shape[2], k.shape[2], rules, q.device)
    causal = rules.causal and mask is None
    return F.scaled_dot_product_attention(
        q, k, v, mask, rules.dropout, is_causal=causal, scale=rules.scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, rules: Rules) -> Tensor:
    """[B, H, L, D] with explicit scores, for softcap (Gemma 2) and attention sinks (gpt-oss).

    ``scores = c tanh(q k^T scale / c)``; a sink is one more logit per head in the softmax's denominator.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * rules.scale  # [B, H, L, P + L]
    if rules.cap is not None:
        scores = torch.tanh(scores / rules.cap) * rules.cap
    mask = _mask(q.shape[2], k.shape[2], rules, q.device)
    if mask is not None:
        scores = scores.masked_fill(~mask, float('-inf'))
    if rules.sinks is not None:
        column = rules.sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, -1, dtype=wide).to(q.dtype)
    weights = weights[..., : k.shape[2]]
    return F.dropout(weights, rules.dropout) @ v


def _mask(queries: int, keys: int, rules: Rules, device: torch.device) -> Tensor | None:
    """True where a query (row) sees a key (column): the last ``window`` positions up to itself. [L, P + L]"""
    if not rules.causal and rules.window is None:
        return None
    at = torch.arange(keys, device=device)
    distance = at[keys - queries :, None] - at[None, :]
    seen = distance >= 0 if rules.causal else torch.ones_like(distance, dtype=torch.bool)
    if rules.window is not None:
        seen &= distance.abs() < rules.window
    return seen
