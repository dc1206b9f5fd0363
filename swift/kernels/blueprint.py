"""Finds out whether a model is a decoder that ``kernels.decoder`` computes, by watching it read a few tokens.

No model is known by name. The tensors that go in and out of its norms and linear layers say how they are joined; what
lies between them (rotary positions, activation, shares of sums) is found by trial; then every layer that was
understood is computed by the kernel on what it has just seen, and must give what the model gave.

Shapes: ``T`` tokens, ``H`` query heads, ``K`` key heads, ``D`` head width, ``d`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from swift.kernels import compiled
from swift.kernels.angles import moves, reaching
from swift.kernels.attention import KERNEL_TOLERANCE, REFUSALS, long_range, packed_attention
from swift.kernels.decoder import (
    ACTS,
    MOST_SHARING,
    PANEL,
    ROWS,
    WIDEST_HEAD,
    Angles,
    Blueprint,
    Decoder,
    Layer,
    Linear,
    Norm,
    Rows,
    page_bytes,
    up,
)
from swift.kernels.difference import relative
from swift.kernels.gated import PLAIN
from swift.kernels.layers import epsilon
from swift.kernels.rotary import plain as turned

NAME = 'swift_watched'
TOKENS = 12
SAME = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
"""Largest relative difference of one layer by the model and by the kernel: bf16 rounds between its operations."""


class Misfit(Exception):
    """Why a model is no decoder that the kernel computes."""


@dataclass(slots=True)
class Call:
    """What went in and out of a module."""

    path: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    out: Any

    @property
    def into(self) -> Tensor:
        """The first tensor that went in."""
        return next(each for each in (*self.args, *self.kwargs.values()) if isinstance(each, Tensor))


@dataclass(slots=True)
class Attention:
    """A call of the attention interface."""

    module: nn.Module
    q: Tensor  # [1, H, T, D]
    k: Tensor
    v: Tensor
    options: dict[str, Any]
    out: Tensor  # [1, T, H, D]


@dataclass(slots=True)
class Record:
    """All calls of one pass, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    positions: Tensor | None = None


def draw(model: PreTrainedModel, *, longest: int, pages: Callable[[int], int] | Tensor) -> Decoder:
    """The model as the kernel computes it, with a copy of its weights.

    Args:
        longest: tokens of the longest sequence.
        pages: bytes of a page to their number, or the pages of another decoder of the same sizes.

    Raises:
        Misfit: why not.
    """
    parameters = list(model.parameters())
    if (why := compiled.missing()) is not None:
        raise Misfit(why)
    if not compiled.supported(*parameters):
        raise Misfit('its weights are not all bf16 or all fp32 on the CPU')
    if (why := long_range(model, longest)) is not None:
        raise Misfit(why)
    if 'forward' in vars(model):
        raise Misfit('its forward has been replaced')
    record, logits = _watch(model)
    blueprint = _read(model, record, logits)
    decoder = Decoder(blueprint, pages if isinstance(pages, Tensor) else pages(page_bytes(blueprint)))
    _prove(decoder, record, _ids(model)[0], logits)
    return decoder


# ------------------------------------------------------------------------------------------------------------ watching
def _watch(model: PreTrainedModel) -> tuple[Record, Tensor]:
    record = Record(positions=torch.arange(TOKENS)[None])
    before = model.config._attn_implementation or 'eager'
    try:
        with _noting(model, record), torch.no_grad():
            model.set_attn_implementation(NAME)
            logits = model(input_ids=_ids(model), position_ids=record.positions, use_cache=False).logits[0]
    except REFUSALS as error:
        raise Misfit(
            f'it does not take attention by the interface ({type(error).__name__}: {str(error)[:100]})'
        ) from error
    finally:
        model.set_attn_implementation(before)
    return record, logits


def _ids(model: PreTrainedModel) -> Tensor:
    return (torch.arange(TOKENS)[None] * 7919 + 13) % model.config.get_text_config().vocab_size


@contextmanager
def _noting(model: nn.Module, record: Record) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(_note(path, record), with_kwargs=True) for path, module in model.named_modules()
    ]
    _RECORDS.append(record)
    try:
        yield
    finally:
        _RECORDS.remove(record)
        for hook in hooks:
            hook.remove()


def _note(path: str, record: Record) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        record.calls.append(Call(path, module, args, kwargs, out))

    return note


_RECORDS: list[Record] = []


def _watched_attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> tuple:
    out, _ = packed_attention(module, q, k, v, mask, **options, fast=False)
    for record in _RECORDS:
        record.attentions.append(Attention(module, q, k, v, options, out))
    return out, None


AttentionInterface.register(NAME, _watched_attention)


# ------------------------------------------------------------------------------------------------------------- reading
def _read(model: PreTrainedModel, record: Record, logits: Tensor) -> Blueprint:
    if not record.attentions:
        raise Misfit('it has no attention that goes through the interface')
    q, k, v = record.attentions[0].q, record.attentions[0].k, record.attentions[0].v
    blueprint = Blueprint(
        embedding=_embedding(record),
        width=_embedding(record).shape[-1],
        heads=q.shape[1],
        key_heads=k.shape[1],
        head_width=q.shape[3],
        inner=0,
        vocabulary=logits.shape[-1],
        dtype=q.dtype,
        layers=[],
        angles=[],
        last=None,  # type: ignore[arg-type]
        head=None,  # type: ignore[arg-type]
    )
    if any(a.q.shape != q.shape or a.k.shape != k.shape or a.v.shape != k.shape for a in record.attentions):
        raise Misfit('its layers have heads of different sizes')
    if v.shape != k.shape or blueprint.width % PANEL or (q.shape[1] * q.shape[3]) % PANEL:
        raise Misfit(f'its widths ({blueprint.width}, {q.shape[1]} x {q.shape[3]}) are no multiples of {PANEL}')
    if q.shape[3] > WIDEST_HEAD or q.shape[1] // k.shape[1] > MOST_SHARING:
        raise Misfit('its heads are too wide, or too many of them share their keys')
    angles = _Rotaries(record)
    for attention in record.attentions:
        blueprint.layers.append(_LayerReader(model, record, blueprint, angles, attention).read())
    blueprint.angles = angles.found
    blueprint.embedding_scale = _embedding_scale(model, record)
    _read_end(model, blueprint, record, logits)
    return blueprint


def _embedding(record: Record) -> Tensor:
    tables = [call.module for call in record.calls if isinstance(call.module, nn.Embedding)]
    if len(tables) != 1:
        raise Misfit('it does not look its tokens up once')
    return tables[0].weight


def _layer_calls(record: Record) -> list[Call]:
    """The calls of the modules that each hold one attention and follow each other in a list."""
    owners = {call.module: call for call in record.calls}
    paths = {
        attention.module: owners[attention.module].path for attention in record.attentions if attention.module in owners
    }
    found = []
    for attention in record.attentions:
        if attention.module not in paths:
            raise Misfit('its attention is not called as a module')
        parts = paths[attention.module].split('.')
        at = max((i for i, part in enumerate(parts) if part.isdigit()), default=None)
        path = '.'.join(parts[: at + 1]) if at is not None else None
        calls = [call for call in record.calls if call.path == path]
        if len(calls) != 1:
            raise Misfit('its layers are not called one by one')
        found.append(calls[0])
    if len({call.path for call in found}) != len(found):
        raise Misfit('a layer of it attends more than once')
    return found


def _hidden(out: Any) -> Tensor:
    return out[0] if isinstance(out, tuple) else out


def _embedding_scale(model: PreTrainedModel, record: Record) -> float:
    embedded, first = _embedding(record)[_ids(model)[0]], _layer_calls(record)[0].into[0]
    width = torch.tensor(embedded.shape[-1] ** 0.5, dtype=embedded.dtype)
    for scale in (1.0, float(width), getattr(model.config.get_text_config(), 'embedding_multiplier', 1.0)):
        if relative(embedded.float() * scale, first.float()) < SAME[embedded.dtype]:
            return float(scale)
    raise Misfit('what goes into its first layer is no multiple of its embeddings')


def _read_end(model: PreTrainedModel, blueprint: Blueprint, record: Record, logits: Tensor) -> None:
    inside = [call.path + '.' for call in _layer_calls(record)]
    last = _hidden(_layer_calls(record)[-1].out)
    rest = [call for call in record.calls if not call.path.startswith(tuple(inside))]
    norms = [call for call in rest if _is_norm(call.module)]
    heads = [call for call in rest if type(call.module) is nn.Linear]
    if len(norms) != 1 or len(heads) != 1:
        raise Misfit('it does not end with one norm and one linear layer')
    if not _same(norms[0].into, last) or not _same(norms[0].out, heads[0].into):
        raise Misfit('something lies between its last layer, its norm and its head')
    blueprint.last, blueprint.head = _norm(norms[0]), _linear(heads[0])
    config = model.config.get_text_config()
    scaling = getattr(config, 'logits_scaling', None)
    scales = (1 / scaling if scaling else 1.0, getattr(config, 'logit_scale', None) or 1.0, 1.0)
    caps = (getattr(config, 'final_logit_softcapping', None) or 0.0, 0.0)  # small logits look alike with and without
    raw = heads[0].out[0].float()
    for scale in scales:
        for cap in caps:
            made = cap * torch.tanh(raw * scale / cap) if cap else raw * scale
            if relative(made, logits.float()) < SAME[blueprint.dtype]:
                blueprint.logit_scale, blueprint.logit_cap = float(scale), float(cap)
                return
    raise Misfit('its logits are not what its head gives')


class _Rotaries:
    """The modules that gave angles, as tables of any length."""

    def __init__(self, record: Record):
        self.found: list[Angles] = []
        self._record = record
        self._calls = [
            call
            for call in record.calls
            if isinstance(call.out, tuple)
            and len(call.out) == 2
            and all(isinstance(each, Tensor) and each.dim() == 3 and each.shape[1] == TOKENS for each in call.out)
            and call.out[0].shape == call.out[1].shape
            and not any(call.module.parameters())
        ]
        self._known: dict[tuple[int, bool], int] = {}

    def turning(self, before: Tensor, after: Tensor) -> int:
        """The number of the angles that turn heads [1, H, T, D] from what they were to what they are, or -1."""
        tolerance = SAME[before.dtype]
        if relative(before, after) < tolerance / 100:
            return -1
        for at, call in enumerate(self._calls):
            cos, sin = call.out
            for adjacent in (False, True):
                wide = self._spread(cos, adjacent), self._spread(sin, adjacent)
                if wide[0].shape[-1] > before.shape[-1]:
                    continue
                made = turned(before.float(), *(each.float() for each in wide), adjacent=adjacent)
                if relative(made, after.float()) < tolerance:
                    return self._remember(at, adjacent)
        raise Misfit('how its heads are turned was not understood')

    @staticmethod
    def _spread(angles: Tensor, adjacent: bool) -> Tensor:
        """Angles of pairs that lie side by side, where the module gave them as two equal halves."""
        half = angles[..., : angles.shape[-1] // 2]
        halves = torch.equal(half, angles[..., angles.shape[-1] // 2 :])
        return half.repeat_interleave(2, -1) if adjacent and halves else angles

    def _remember(self, at: int, adjacent: bool) -> int:
        if (at, adjacent) not in self._known:
            self._known[at, adjacent] = len(self.found)
            self.found.append(self._angles(self._calls[at], adjacent))
        return self._known[at, adjacent]

    def _angles(self, call: Call, adjacent: bool) -> Angles:
        seen = self._record.positions
        assert seen is not None
        args, kwargs, module = call.args, call.kwargs, call.module

        def change(value: Any, positions: Tensor) -> Any:
            if not isinstance(value, Tensor):
                return value
            rows = value.shape[:-1]  # more than one where pictures have positions of several axes (m-rope)
            if value.dtype == positions.dtype and value.shape[-2:] == seen.shape and (value == seen).all():
                return positions.expand(*rows, -1)
            return value[:, :1].float() if value.is_floating_point() else value

        def of(positions: Tensor, reaches: Tensor) -> tuple[Tensor, Tensor]:
            positions = positions[None]
            with torch.no_grad(), reaching(reaches[None]):
                cos, sin = module(
                    *(change(each, positions) for each in args),
                    **{name: change(each, positions) for name, each in kwargs.items()},
                )
            if cos.shape[1] != positions.shape[1]:
                raise Misfit('its angles are not those of the positions it is given')
            return self._spread(cos, adjacent)[0], self._spread(sin, adjacent)[0]

        return Angles(of, adjacent, moves(module))


class _LayerReader:
    """Reads one layer from the calls inside it. Every norm and linear layer must find its part."""

    def __init__(self, model: PreTrainedModel, record: Record, is_: Blueprint, angles: _Rotaries, attention: Attention):
        self.call = _layer_calls(record)[record.attentions.index(attention)]
        self.config, self.is_, self.angles, self.attention = model.config.get_text_config(), is_, angles, attention
        inside = [call for call in record.calls if call.path.startswith(self.call.path + '.')]
        leaves = [call for call in inside if not list(call.module.children()) and list(call.module.parameters())]
        for call in leaves:
            if not _is_norm(call.module) and type(call.module) is not nn.Linear:
                raise Misfit(f'{call.path} ({type(call.module).__name__}) is neither norm nor linear layer')
        own = sum(parameter.numel() for parameter in self.call.module.parameters())
        sinks = attention.options.get('s_aux')
        seen = sum(p.numel() for call in leaves for p in call.module.parameters()) + (
            0 if sinks is None else sinks.numel()
        )
        if own != seen and not _has_adapters(self.call.module):
            raise Misfit(f'{self.call.path} has parameters outside its norms and linear layers')
        self.norms = [call for call in leaves if _is_norm(call.module)]
        self.linears = [call for call in leaves if not _is_norm(call.module)]

    def read(self) -> Layer:
        x, y = self.call.into, _hidden(self.call.out)
        options = self.attention.options
        before = self._norm_of(x)
        into = x if before is None else before.out
        seen = self.attention.out.flatten(2)
        out = self._linear_of(seen, 'after its attention')
        qkv = self._linears_of(into)
        query, key = self._head_norms(qkv)
        rotary = self._rotary(qkv, query, key)
        after = self._norm_of(out.out)
        branch = out.out if after is None else after.out
        down = self.linears[-1]
        gates = self.linears[:-1]
        self.linears = []
        if not gates:
            raise Misfit('its layers have no gated MLP')
        before_mlp = next((norm for norm in self.norms if _same(norm.out, gates[0].into)), None)
        middle = gates[0].into if before_mlp is None else before_mlp.into
        self._drop(before_mlp)
        after_mlp = self._norm_of(down.out)
        share = self._share(x, branch, middle)
        if self._share(middle, down.out if after_mlp is None else after_mlp.out, y) != share:
            raise Misfit('its two branches are added in different shares')
        if self.norms:
            raise Misfit(f'the part of {self.norms[0].path} was not understood')
        gate_up, act = self._activation(gates, down)
        return Layer(
            before=_norm(before),
            qkv=[_linear(each) for each in qkv],
            query=_norm(query),
            key=_norm(key),
            out=_linear(out),
            after=_norm(after),
            before_mlp=_norm(before_mlp),
            gate_up=gate_up,
            down=_linear(down),
            after_mlp=_norm(after_mlp),
            sinks=options.get('s_aux'),
            scale=options.get('scaling') or self.is_.head_width**-0.5,
            cap=options.get('softcap') or 0.0,
            window=options.get('sliding_window') or 0,
            rotary=rotary,
            act=act,
            share=share,
        )

    def _drop(self, norm: Call | None) -> None:
        if norm is not None:
            self.norms.remove(norm)

    def _norm_of(self, x: Tensor) -> Call | None:
        """The norm that x goes into."""
        found = next((norm for norm in self.norms if _same(norm.into, x)), None)
        self._drop(found)
        return found

    def _linear_of(self, x: Tensor, where: str) -> Call:
        found = next((each for each in self.linears if _same(each.into, x)), None)
        if found is None:
            raise Misfit(f'there is no linear layer {where}')
        self.linears.remove(found)
        return found

    def _linears_of(self, x: Tensor) -> list[Call]:
        """Queries, keys and values: three layers, or one, that x goes into."""
        found = [each for each in self.linears if _same(each.into, x)][:3]
        H, K, D = self.is_.heads, self.is_.key_heads, self.is_.head_width
        sizes = [each.out.shape[-1] for each in found]
        if sizes != [H * D, K * D, K * D]:
            found = found[:1]
            if sizes[:1] != [(H + 2 * K) * D]:
                raise Misfit(f'no linear layers give {H} queries and {K} keys and values of {D}')
        self.linears = [each for each in self.linears if each not in found]
        return found

    def _head_norms(self, qkv: list[Call]) -> tuple[Call | None, Call | None]:
        D = self.is_.head_width
        found = [norm for norm in self.norms if norm.out.shape[-1] == D and norm.out.dim() == 4]
        if not found:
            return None, None
        if len(found) != 2:
            raise Misfit('norms of heads are neither none nor two')
        for norm in found:
            self._drop(norm)
        return found[0], found[1]

    def _rotary(self, qkv: list[Call], query: Call | None, key: Call | None) -> int:
        H, K, D = self.is_.heads, self.is_.key_heads, self.is_.head_width
        outs = [each.out for each in qkv]
        q, k, v = outs if len(outs) == 3 else outs[0].split([H * D, K * D, K * D], -1)
        heads = lambda x, n, norm: (
            (x if norm is None else self._lying(norm.out)).reshape(1, TOKENS, n, D).transpose(1, 2)
        )
        if not _same(heads(v, K, None), self.attention.v):
            raise Misfit('its values are not what a linear layer gives')
        found = self.angles.turning(heads(q, H, query), self.attention.q)
        if self.angles.turning(heads(k, K, key), self.attention.k) != found:
            raise Misfit('its keys are turned in another way than its queries')
        return found

    def _lying(self, out: Tensor) -> Tensor:
        """A norm's heads as [1, T, heads, D]."""
        return out if out.shape[1] == TOKENS else out.transpose(1, 2)

    def _share(self, x: Tensor, branch: Tensor, y: Tensor) -> float:
        for share in (1.0, getattr(self.config, 'residual_multiplier', 1.0)):
            if relative(x.float() + share * branch.float(), y.float()) < SAME[self.is_.dtype]:
                return float(share)
        raise Misfit('what its branches are added to was not understood')

    def _activation(self, gates: list[Call], down: Call) -> tuple[list[Linear], Any]:
        outs = [each.out for each in gates] if len(gates) == 2 else list(gates[0].out.chunk(2, -1))
        if len(gates) > 2 or any(not _same(each.into, gates[0].into) for each in gates):
            raise Misfit('its MLP is none of gate, up and down')
        self.is_.inner = down.into.shape[-1]
        for swapped in (False, True):
            gate, up_ = reversed(outs) if swapped else outs
            for act in ACTS:
                if relative(PLAIN[act](gate.float()) * up_.float(), down.into.float()) < SAME[self.is_.dtype]:
                    if swapped and len(gates) == 1:
                        raise Misfit('its MLP has up before gate')
                    return [_linear(each) for each in (reversed(gates) if swapped else gates)], act
        raise Misfit(f'its MLP is no product of {", ".join(ACTS)} of the gate, and up')


def _is_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return set(own) == {'weight'} and own['weight'].dim() == 1 and epsilon(module) is not None


def _norm(call: Call | None) -> Any:
    if call is None:
        return None
    x, own, eps = call.into.float(), next(call.module.parameters()), epsilon(call.module)
    assert eps is not None
    if x.shape[-1] != len(own):
        raise Misfit(f'{call.path} is a norm of another width')
    normal = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    for offset in (0.0, 1.0):
        if relative(normal * (offset + own.float()), call.out.float()) < SAME[call.out.dtype]:
            return Norm(own, eps, offset)
    raise Misfit(f'{call.path} does not compute RMSNorm')


def _linear(call: Call) -> Linear:
    assert isinstance(call.module, nn.Linear)
    return Linear(call.path, call.module)


def _has_adapters(module: nn.Module) -> bool:
    return any(hasattr(each, 'base_layer') for each in module.modules())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


# ------------------------------------------------------------------------------------------------------------- proving
def _prove(decoder: Decoder, record: Record, ids: Tensor, logits: Tensor) -> None:
    """Every layer on what it has seen, and all of them together. Raises Misfit."""
    blueprint = decoder.is_
    pages = decoder.pages[:, :1].clone()  # they may be another decoder's
    sequence = np.array([[0, TOKENS, 0, 0]])
    T = up(TOKENS, ROWS)
    owner = np.where(np.arange(T) < TOKENS, 0, -1)
    reaches, pages_of = np.array([TOKENS]), np.zeros(1, np.int32)
    rows = Rows(owner, sequence, reaches, pages_of, np.zeros(0, np.int64))
    for at, call in enumerate(_layer_calls(record)):
        x = torch.zeros(T, blueprint.width, dtype=blueprint.dtype)
        x[:TOKENS] = call.into[0]
        found = torch.zeros_like(x)
        decoder.step(x, rows, hidden=found, layers=(at, at + 1))
        difference = relative(found[:TOKENS] - x[:TOKENS], _hidden(call.out)[0] - call.into[0])
        if not difference < 10 * SAME[blueprint.dtype]:
            raise Misfit(f'layer {at} as it was understood gives something else (difference {difference:.1e})')
    embedded = torch.zeros(T, blueprint.width, dtype=blueprint.dtype)
    embedded[:TOKENS] = blueprint.embedding[ids]
    found = decoder.step(embedded, replace(rows, wanted=np.arange(TOKENS)))
    if not (difference := relative(found, logits)) < KERNEL_TOLERANCE[blueprint.dtype]:
        raise Misfit(f'its layers together give something else (difference {difference:.1e})')
    decoder.pages[:, :1] = pages
