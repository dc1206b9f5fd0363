"""Attention over keys and values in pages, by torch's own operations: on any device, for any model that calls
transformers' AttentionInterface.

Rows of many sequences go through the model as one row without padding. Inside ``Store.passing`` each attention of the
model writes what the rows bring to its pages, and reads what their sequences have there.

Shapes: ``T`` rows of a pass, ``H`` query heads, ``K`` key heads, ``G = H / K``, ``D`` head width, ``B`` sequences of a
block with ``n`` rows each, ``L`` tokens of the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from swift.kernels.attention import Uncovered
from swift.kernels.decoder import PAGE
from swift.kernels.segmentwise import Rules

NAME = 'swift_paged'
TOGETHER = 8  # rows of a sequence up to which it is computed together with others


class Span(NamedTuple):
    """Rows of one sequence in a pass: ``count`` from ``first`` on, the first at position ``start``."""

    first: int
    count: int
    start: int
    pages: np.ndarray  # int32, of the whole sequence


@dataclass(frozen=True)
class Block:
    """Sequences that are computed together."""

    rows: Tensor  # int64 [B n]
    context: Tensor  # int64 [B, L] where keys and values lie; behind a sequence's end its first
    positions: Tensor  # int64 [B, n, 1]
    seen_by: dict[int | None, Tensor]  # window -> bool [B, 1, n, L]

    def seen(self, window: int | None) -> Tensor:
        """What each row sees."""
        if window not in self.seen_by:
            keys = torch.arange(self.context.shape[1], device=self.context.device)
            seen = keys <= self.positions
            self.seen_by[window] = (seen if window is None else seen & (keys > self.positions - window))[:, None]
        return self.seen_by[window]


class Pass:
    """Where the rows of one forward pass go, and what they see; layers are told apart by their order."""

    def __init__(self, store: Store, spans: Sequence[Span]):
        at = lambda span: np.arange(span.start, span.start + span.count)
        self.store = store
        self.slots = store.index(np.concatenate([_slots(span, at(span)) for span in spans]))
        together = [list(some) for _, some in groupby(sorted(spans, key=_kind), _kind)]
        self.blocks = [self._block(some) for some in together]
        self.layers = 0

    def _block(self, spans: list[Span]) -> Block:
        ends = [span.start + span.count for span in spans]
        inside = lambda end: np.where(np.arange(max(ends)) < end, np.arange(max(ends)), 0)
        rows = np.concatenate([np.arange(span.first, span.first + span.count) for span in spans])
        context = np.stack([_slots(span, inside(end)) for span, end in zip(spans, ends, strict=True)])
        positions = np.stack([np.arange(span.start, span.start + span.count) for span in spans])[:, :, None]
        return Block(self.store.index(rows), self.store.index(context), self.store.index(positions), {})


def _kind(span: Span) -> tuple[int, int]:
    return (span.count, 0) if span.count <= TOGETHER else (span.count, span.first + 1)


def _slots(span: Span, positions: np.ndarray) -> np.ndarray:
    return span.pages[positions // PAGE].astype(np.int64) * PAGE + positions % PAGE


class Store:
    """Keys and values [count PAGE, K D] of each layer, made when the layer is first met."""

    def __init__(self, count: int, device: torch.device):
        self.count, self._device = count, device
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def page_bytes(self) -> int:
        """What a page takes, in all layers that were met."""
        return sum(each.nbytes for layer in self._layers for each in layer) // self.count

    def index(self, numbers: np.ndarray) -> Tensor:
        """Indices, where they are needed."""
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._device, non_blocking=True)

    def layer(self, at: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer that brings such rows [T, K, D]."""
        if at == len(self._layers):  # zeros: on the CPU they take memory when they are first written
            made = (each.new_zeros(self.count * PAGE, each[0].numel()) for each in (key, value))
            self._layers.append(tuple(made))  # type: ignore[arg-type]
        return self._layers[at]

    def copy_page(self, source: int, to: int) -> None:
        """Let one page hold what another does."""
        for each in (each for layer in self._layers for each in layer):
            each[to * PAGE : (to + 1) * PAGE] = each[source * PAGE : (source + 1) * PAGE]

    @contextmanager
    def passing(self, model: PreTrainedModel, spans: Sequence[Span]) -> Iterator[Pass]:
        """Within, the model's attention is over these pages. Give it ``position_ids``, and no mask or cache."""
        before, now = model.config._attn_implementation, Pass(self, spans)
        token = _NOW.set(now)
        model.config._attn_implementation = NAME
        try:
            yield now
        finally:
            model.config._attn_implementation = before
            _NOW.reset(token)


_NOW: ContextVar[Pass] = ContextVar('paged attention')


def paged_attention(
    module: nn.Module,
    query: Tensor,  # [1, H, T, D]
    key: Tensor,  # [1, K, T, D]
    value: Tensor,  # [1, K, T, D of values]
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface within a pass. Returns ([1, T, H, D of values], None)."""
    causal = getattr(module, 'is_causal', True) if is_causal is None else is_causal
    if attention_mask is not None or position_bias is not None or not causal:
        raise Uncovered('the model hands its attention a mask or a position bias of its own, or looks ahead')
    now = _NOW.get()
    if query.shape[0] != 1 or query.shape[2] != len(now.slots):
        raise Uncovered(f'a layer sees {tuple(query.shape)} of a row of {len(now.slots)}')
    rules = Rules(query.shape[-1] ** -0.5 if scaling is None else scaling, True, sliding_window, softcap, s_aux)
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # [T, heads, D]
    keys, values = now.store.layer(now.layers, k, v)
    now.layers += 1
    keys.index_copy_(0, now.slots, k.flatten(1))
    values.index_copy_(0, now.slots, v.flatten(1))
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    for block in now.blocks:
        K, V = (F.embedding(block.context, held) for held in (keys, values))  # [B, L, K D]
        K, V = K.unflatten(-1, k.shape[1:]), V.unflatten(-1, v.shape[1:])
        out[block.rows] = attend(q[block.rows], K, V, block, rules)
    return out[None], None


def attend(q: Tensor, k: Tensor, v: Tensor, block: Block, rules: Rules) -> Tensor:
    """Rows [B n, H, D] over keys [B, L, K, D] and values. Returns [B n, H, D of values]."""
    (B, _, K, _), (_, H, D) = k.shape, q.shape
    G, n = H // K, len(q) // B
    q = q.view(B, n, K, G, D).permute(0, 2, 3, 1, 4).reshape(B, K, G * n, D)  # a key head's rows end to end
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    seen = block.seen(rules.window).repeat(1, 1, G, 1)
    if rules.cap is None and rules.sinks is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=rules.scale)
    else:
        out = _explicit(q, k, v, seen, rules)
    return out.view(B, K, G, n, -1).permute(0, 3, 1, 2, 4).reshape(B * n, H, -1)


def _explicit(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, rules: Rules) -> Tensor:
    """By its formula, softmax(cap tanh(q k scale / cap), sink) v, in fp32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) @ k.to(wide).transpose(-1, -2) * rules.scale
    if rules.cap is not None:
        scores = rules.cap * torch.tanh(scores / rules.cap)
    scores = scores.masked_fill(~seen, float('-inf'))
    if rules.sinks is not None:
        K, rows = q.shape[1:3]
        heads = rules.sinks.to(wide).view(1, K, -1, 1).repeat_interleave(rows * K // len(rules.sinks), 2)
        scores = torch.cat([scores, heads.expand(len(q), -1, -1, -1)], -1)
    weights = scores.softmax(-1)[..., : k.shape[2]]
    return (weights @ v.to(wide)).to(v.dtype)


AttentionInterface.register(NAME, paged_attention)
