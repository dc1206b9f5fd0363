"""The KV cache of a batch whose rows come and go: rows are aligned at the right, padded at the left.

transformers' own ``DynamicCache`` holds the tensors, so that every architecture it knows is served by the layout it
expects: a 2-d mask hides the padding, positions are passed by name. Three operations at step boundaries are ours:
``select`` rows, ``trim`` padding that no row needs any more, and ``join`` two batches.

Shapes: ``B`` rows, ``H`` key heads, ``L`` columns (the longest row), ``d`` head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

SPARE = 64  # columns a layer grows by: copying a cache at every token can cost as much as reading the weights


class RoomyLayer(DynamicLayer):
    """A full-attention layer with columns to spare, so that most tokens are written without copying the cache."""

    _room: tuple[Tensor, Tensor] | None = None
    _view: Tensor | None = None  # what ``keys`` was after our last update; another tensor there was put by others

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length, grown = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._room is None or self.keys is not self._view or self._room[0].shape[-2] < grown:
            self._room = (_widened(self.keys, grown + SPARE), _widened(self.values, grown + SPARE))
        keys, values = self._room
        keys[..., length:grown, :] = key_states
        values[..., length:grown, :] = value_states
        self.keys = self._view = keys[..., :grown, :]
        self.values = values[..., :grown, :]
        return self.keys, self.values


def _widened(old: Tensor, columns: int) -> Tensor:
    """``old`` [B, H, L, d] at the left of a new tensor [B, H, columns, d]."""
    room = old.new_empty((*old.shape[:-2], columns, old.shape[-1]))
    room[..., : old.shape[-2], :] = old
    return room


def make(config: Any) -> Cache:
    """An empty cache for a model with this config."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


JOINABLE = (RoomyLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, DummyLayer)


def joinable(cache: Cache) -> bool:
    """Whether rows of two caches can decode as one batch. Where not, each request decodes alone."""
    return all(type(layer) in JOINABLE for layer in cache.layers)


def recurrent(cache: Cache) -> bool:
    """Whether some layer carries a state through every column, padding included: prompts must not be padded then."""
    return any(isinstance(layer, LinearAttentionLayer) for layer in cache.layers)


def select(cache: Cache, rows: list[int], device: torch.device) -> None:
    """Keep only ``rows`` of the batch, in that order; a row may be named more than once."""
    cache.reorder_cache(torch.tensor(rows, device=device))


def trim(cache: Cache, columns: int) -> None:
    """Drop the leftmost ``columns``, which are padding in every row."""
    for layer in cache.layers:
        if not isinstance(layer, DynamicLayer) or not layer.is_initialized:
            continue
        kept = layer.get_seq_length() - columns
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = kept
            kept = min(kept, layer.sliding_window - 1)
        layer.keys, layer.values = layer.keys[..., -kept:, :], layer.values[..., -kept:, :]


def join(first: Cache, second: Cache) -> None:
    """Put the rows of ``second`` below those of ``first``, the shorter of the two padded at the left."""
    for ours, theirs in zip(first.layers, second.layers, strict=True):
        if isinstance(ours, LinearAttentionLayer):
            _join_states(ours, theirs)
        elif isinstance(ours, DynamicLayer) and ours.is_initialized:
            length = max(ours.get_seq_length(), theirs.get_seq_length())
            columns = length
            if isinstance(ours, DynamicSlidingWindowLayer):
                ours.cumulative_length = length
                columns = min(length, ours.sliding_window - 1)
            ours.keys = torch.cat([_padded(ours.keys, columns), _padded(theirs.keys, columns)])
            ours.values = torch.cat([_padded(ours.values, columns), _padded(theirs.values, columns)])


def _padded(old: Tensor, columns: int) -> Tensor:
    return F.pad(old, (0, 0, columns - old.shape[-2], 0))


def _join_states(ours: LinearAttentionLayer, theirs: LinearAttentionLayer) -> None:
    for states, more in ((ours.conv_states, theirs.conv_states), (ours.recurrent_states, theirs.recurrent_states)):
        for index, state in states.items():
            if state is not None:
                states[index] = torch.cat([state, more[index]])
