"""Packed attention: N sequences end to end in one row, each attending causally to itself only, without a mask.

It is registered with transformers' AttentionInterface, so that any model which calls the interface uses it with no
patch; ``segments`` travels as a keyword argument of ``model.forward``. ``probe`` finds out, by running the model,
whether every layer really honours it; a model that does not is run on one sequence at a time.

Shapes: ``T`` tokens, ``H`` query heads, ``K`` key heads, ``D`` head width, ``L`` tokens of one segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from swift.core.types import Segments
from swift.kernels import angles, flash, prefix, segmentwise
from swift.kernels.segmentwise import Rules

NAME = 'swift_packed'
PLAIN = 'swift_packed_plain'
"""The same by torch's own operations."""

PROBE_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 8e-2, torch.float16: 2e-2}
"""Largest relative difference of logits that the probe takes for rounding when the same kernel sees other shapes.
Models reduce in fp32 inside even when their weights are fp64."""
KERNEL_TOLERANCE = {**PROBE_TOLERANCE, torch.bfloat16: 0.25, torch.float16: 5e-2}
"""The same when another kernel computes them: on 30 layers of bf16 and tokens that make no sense, eager attention and
SDPA differ by 0.09, and both by 0.2 from fp32."""


class Uncovered(Exception):
    """A layer asks for attention that this kernel does not compute."""


REFUSALS = (Uncovered, TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError)
"""How models say that they do not go along."""


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
    fast: bool = True,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' interface over the segments of a pack. Returns ([1, T, H, D], None)."""
    if attention_mask is not None or position_bias is not None:
        raise Uncovered('the model hands its attention a mask or a position bias of its own')
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise Uncovered('packed attention takes one row without a cache')
    rules = Rules(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=getattr(module, 'is_causal', True) if is_causal is None else is_causal,
        window=sliding_window,
        cap=softcap,
        sinks=s_aux,
        dropout=dropout,
    )
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (each.to(torch.get_autocast_dtype(query.device.type)) for each in (query, key, value))
    segments = segments or Segments((query.shape[2],))
    if segments.total != query.shape[2]:
        raise Uncovered(f'a layer sees {query.shape[2]} tokens of a row of {segments.total}')
    attend = _choose(query, key, value, segments, rules) if fast else segmentwise.attend
    return attend(query, key, value, segments, rules), None


def _choose(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rules: Rules) -> Callable[..., Tensor]:
    """The fastest kernel that computes this: a function of shapes, types, rules and the machine, never of values."""
    if not rules.causal or rules.dropout:
        return segmentwise.attend
    if flash.takes(q, k, v):
        return _flash
    reaching = rules.window is not None and (bool(segments.prefix_of) or q.device.type == 'cpu')
    if (q.is_cuda or segments.prefix_of) and rules.cap is None and rules.sinks is None and not reaching:
        return _merged if prefix.takes(q, k, v) else segmentwise.attend
    return segmentwise.attend


def _flash(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rules: Rules) -> Tensor:
    return flash.attend(q, k, v, segments, scale=rules.scale, window=rules.window, cap=rules.cap, sinks=rules.sinks)


def _merged(q: Tensor, k: Tensor, v: Tensor, segments: Segments, rules: Rules) -> Tensor:
    return prefix.attend(q, k, v, segments, scale=rules.scale, window=rules.window)


AttentionInterface.register(NAME, packed_attention)
AttentionInterface.register(PLAIN, partial(packed_attention, fast=False))


def install(model: PreTrainedModel, max_length: int, *, fast: bool = True) -> str | None:
    """Make ``model`` use packed attention for rows of up to ``max_length`` tokens.

    ``fast`` False leaves out the kernels of this room; ``model.set_attn_implementation`` goes from NAME to PLAIN and
    back at any time. Returns None, or why the model cannot pack; then it is left with the attention it came with.
    """
    before = model.config._attn_implementation or 'eager'
    reason = long_range(model, max_length)
    if reason is None:
        with _evaluating(model), torch.no_grad():
            reason = _probe(model, before, NAME if fast else PLAIN)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def long_range(model: PreTrainedModel, max_length: int) -> str | None:
    """What only shows beyond a length that the probe does not reach: chunks, positions that depend on others."""
    config = model.config.get_text_config()
    chunk = getattr(config, 'attention_chunk_size', None)
    if 'chunked_attention' in (getattr(config, 'layer_types', None) or ()) and chunk and chunk < max_length:
        return f'chunked attention of {chunk} tokens is shorter than the {max_length} tokens of a row'
    return angles.sees_lengths(model, max_length)


def _probe(model: PreTrainedModel, before: str, name: str) -> str | None:
    """Two packed segments against two calls of the same kernel and of the model's own, and a change of the first that
    must not reach the second."""
    ids = _probe_ids(model)
    first, second, other = ids[:12], ids[12:], (ids[:12] + 1) % model.config.get_text_config().vocab_size
    try:
        alone = torch.cat([_answer(model(input_ids=part[None], use_cache=False)) for part in (first, second)])
        model.set_attn_implementation(name)
        segments = Segments((len(first), len(second)))
        apart = torch.cat([_packed_logits(model, Segments((len(part),)), part) for part in (first, second)])
        packed = _packed_logits(model, segments, first, second)
        moved = _packed_logits(model, segments, other, second)[len(first) :]
    except REFUSALS as error:
        return f'its layers do not take packed attention ({type(error).__name__}: {str(error)[:120]})'
    tolerance = PROBE_TOLERANCE[model.dtype]
    leak = _relative(moved, packed[len(first) :])
    if leak > tolerance / 10 and not torch.equal(moved, packed[len(first) :]):
        return f'a sequence sees the one packed before it (difference {leak:.1e})'
    if (difference := _relative(packed, apart)) > tolerance:
        return f'packed and separate sequences differ by {difference:.1e} (allowed {tolerance:.0e})'
    if (difference := _relative(apart, alone)) > (tolerance := KERNEL_TOLERANCE[model.dtype]):
        return f'packed attention and the own one of the model differ by {difference:.1e} (allowed {tolerance:.0e})'
    return None


def shares_prefixes(model: PreTrainedModel) -> str | None:
    """Whether a model that has packed attention also computes sequences with a common prefix as if each had its own.

    Two continuations of one prefix against two whole sequences. Returns None, or why not.
    """
    ids = _probe_ids(model)
    start, one, other = ids[:9], ids[9:16], ids[16:]
    with _evaluating(model), torch.no_grad():
        try:
            whole = [_packed_logits(model, Segments((9 + len(part),)), start, part) for part in (one, other)]
            shared = _packed_logits(model, Segments((9, len(one), len(other)), (-1, 0, 0)), start, one, other)
        except REFUSALS as error:
            return f'its layers do not take shared prefixes ({type(error).__name__}: {str(error)[:120]})'
    difference = _relative(shared, torch.cat([whole[0], whole[1][9:]]))
    if difference > (tolerance := KERNEL_TOLERANCE[model.dtype]):  # blocks of keys begin elsewhere
        return f'shared and repeated prefixes differ by {difference:.1e} (allowed {tolerance:.0e})'
    return None


def _probe_ids(model: PreTrainedModel) -> Tensor:
    device, vocabulary = next(model.parameters()).device, model.config.get_text_config().vocab_size
    return (torch.arange(23, device=device) * 7919 + 13) % vocabulary


def _packed_logits(model: PreTrainedModel, segments: Segments, *parts: Tensor) -> Tensor:
    device = parts[0].device
    spans = zip(segments.offsets, segments.lengths, strict=True)
    positions = torch.cat([torch.arange(at, at + n, device=device) for at, n in spans])
    ids = torch.cat(parts)[None]
    return _answer(model(input_ids=ids, position_ids=positions[None], segments=segments, use_cache=False))


def _answer(output: Any) -> Tensor:
    """What a pass says of each token, [T, V] or [T, d]: logits, or hidden states of a model without a head."""
    return (output.logits if 'logits' in output else output.last_hidden_state)[0]


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
