"""A whole decoder as one C++ call a step: rows of tokens of many sequences, keys and values in pages.

    h += after(out(attention(rotary(qkv(norm(h))))));  h += after_mlp(down(act(gate) up));  logits = head(norm(h))

A row's numbers do not depend, to the last bit, on the rows beside it, on how prompts are cut into steps, or on the
number of threads. ``blueprint.draw`` finds out whether a model is such a decoder; the plain twin is the model itself.

Shapes: ``T`` rows of a step, ``d`` width, ``V`` vocabulary, ``N`` outputs and ``K`` inputs of a linear layer.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from swift.kernels import flash
from swift.kernels.compiled import function

PANEL = 32  # outputs of a linear layer that lie together
PAGE = 32  # tokens whose keys and values lie together
GRAIN = {torch.bfloat16: 32, torch.float32: 16}  # what the width of a head is rounded up to
ROWS = 16  # rows of a step, and of an adapter's span, come in multiples of this
ALIGNMENT = 64  # bytes
WIDEST_HEAD = 256
MOST_SHARING = 64  # query heads of one key head
SUFFIX = {torch.bfloat16: 'bf16', torch.float32: 'f32'}
ACTS = ('silu', 'gelu_tanh', 'gelu')  # by the numbers that the kernel knows them by
GROUPS = ('qkv', 'out', 'gate_up', 'down')
"""Linear layers of a layer that share their input: what an adapter adds to is one of these."""


# ----------------------------------------------------------------------------------------------- as decoder.h has it
class _Norm(ctypes.Structure):
    _fields_ = [('weight', ctypes.c_void_p), ('eps', ctypes.c_double)]


class _Linear(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ('weight', 'bias')] + [
        (name, ctypes.c_int64) for name in ('panels', 'depth')
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        ('before', _Norm), ('qkv', _Linear), ('query', _Norm), ('key', _Norm), ('out', _Linear), ('after', _Norm),
        ('before_mlp', _Norm), ('gate_up', _Linear), ('down', _Linear), ('after_mlp', _Norm),
        ('sinks', ctypes.c_void_p), ('pages', ctypes.c_void_p),
        ('scale', ctypes.c_double), ('cap', ctypes.c_double),
        ('attention_share', ctypes.c_double), ('mlp_share', ctypes.c_double),
        ('window', ctypes.c_int64), ('rotary', ctypes.c_int64), ('act', ctypes.c_int64),
    ]  # fmt: skip


class _Angles(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ('cos', 'sin')] + [
        (name, ctypes.c_int64) for name in ('turned', 'adjacent', 'by_row')
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ('layers', ctypes.c_void_p), ('angles', ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ('count', 'width', 'heads', 'key_heads', 'head_width', 'inner')),
        ('last', _Norm), ('head', _Linear), ('vocabulary', ctypes.c_int64),
        *((name, ctypes.c_double) for name in ('embedding_scale', 'logit_scale', 'logit_cap')),
    ]  # fmt: skip


class _Adapter(ctypes.Structure):
    _fields_ = [('down', _Linear), ('up', _Linear)]


class _Span(ctypes.Structure):
    _fields_ = [('start', ctypes.c_int64), ('end', ctypes.c_int64), ('adapters', ctypes.c_void_p)]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ('embedded', 'owner', 'sequences', 'pages', 'wanted', 'spans')),
        *((name, ctypes.c_void_p) for name in ('logits', 'hidden')),
        *((name, ctypes.c_int64) for name in ('rows', 'sequence_count', 'wanted_count', 'span_count')),
    ]


# ------------------------------------------------------------------------------------------------------- blueprints
class Norm(NamedTuple):
    """RMSNorm by ``offset + weight``."""

    weight: Tensor
    eps: float
    offset: float


class Linear(NamedTuple):
    """A linear layer, and where it is in its model."""

    path: str
    module: nn.Linear


@dataclass(slots=True)
class Layer:
    """What one layer computes. ``gate_up`` are two layers, or one whose outputs are halves."""

    before: Norm | None
    qkv: list[Linear]
    query: Norm | None
    key: Norm | None
    out: Linear
    after: Norm | None
    before_mlp: Norm | None
    gate_up: list[Linear]
    down: Linear
    after_mlp: Norm | None
    sinks: Tensor | None
    scale: float
    cap: float
    window: int
    rotary: int  # which angles; -1 for none
    act: Literal['silu', 'gelu_tanh', 'gelu']
    share: float  # of both branches in the sum


class Angles(NamedTuple):
    """Cosines and sines [T, R] of positions [T] in sequences of lengths [T], which matter only if they ``move``."""

    of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    adjacent: bool
    moving: bool


@dataclass(slots=True)
class Blueprint:
    """A decoder's sizes and parts."""

    embedding: Tensor  # [V, d]
    width: int
    heads: int
    key_heads: int
    head_width: int
    inner: int
    vocabulary: int
    dtype: torch.dtype
    layers: list[Layer]
    angles: list[Angles]
    last: Norm
    head: Linear
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0


# ---------------------------------------------------------------------------------------------------------- packing
def up(n: int, grain: int) -> int:
    """``n`` rounded up to a multiple of ``grain``."""
    return -(-n // grain) * grain


@dataclass(slots=True)
class Packed:
    """A linear layer as the kernel reads it."""

    weight: Tensor
    bias: Tensor | None
    panels: int
    depth: int

    @property
    def c(self) -> _Linear:
        bias = None if self.bias is None else self.bias.data_ptr()
        return _Linear(self.weight.data_ptr(), bias, self.panels, self.depth)


class Place(NamedTuple):
    """Where outputs lie in their panels: ``per`` of each, from ``offset`` on, beginning with panel ``first``."""

    first: int
    per: int
    offset: int


def in_a_row(sizes: Sequence[int]) -> list[Place]:
    """Matrices one after the other, each beginning a panel."""
    firsts = np.cumsum([0, *(up(size, PANEL) // PANEL for size in sizes)])
    return [Place(int(first), PANEL, 0) for first in firsts[:-1]]


def side_by_side() -> list[Place]:
    """Two matrices whose outputs are multiplied: each panel has half of each."""
    half = PANEL // 2
    return [Place(0, half, 0), Place(0, half, half)]


def empty(panels: int, inputs: int, dtype: torch.dtype, *, bias: bool, room: Room | None = None) -> Packed:
    """A linear layer of zeros, its weights in ``room`` where that is given."""
    depth = up(inputs, 32)
    words = panels * depth * PANEL
    weight = torch.zeros(words, dtype=dtype) if room is None else room.take(words)
    return Packed(weight, torch.zeros(panels * PANEL) if bias else None, panels, depth)


class Room:
    """Memory for many weights, zeros, in large pages where the system has them: a step reads all of it, and with small
    pages a fifth of its time goes into finding them."""

    def __init__(self, words: int, dtype: torch.dtype):
        room = mmap.mmap(-1, words * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(AttributeError, OSError):  # another system, or a kernel without them
            room.madvise(mmap.MADV_HUGEPAGE)
        self._free = torch.frombuffer(room, dtype=dtype)

    def take(self, words: int) -> Tensor:
        """A part that nobody has."""
        part, self._free = self._free[:words], self._free[words:]
        return part


def fill(to: Packed, weight: Tensor, place: Place, *, bias: Tensor | None = None, input: int = 0) -> None:
    """Write a matrix [N, K] to its place, its inputs from ``input`` on."""
    weight = weight.detach().to(to.weight.dtype)
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    N, K = weight.shape
    pack = function(f'decoder_pack_{SUFFIX[to.weight.dtype]}', 'p iii p iiiii')
    pack(weight.data_ptr(), weight.stride(0), N, K, to.weight, to.depth, *place, input)
    if bias is not None and to.bias is not None:
        index = torch.arange(N)
        to.bias[(place.first + index // place.per) * PANEL + place.offset + index % place.per] = bias.detach().float()


# ---------------------------------------------------------------------------------------------------------- decoder
@dataclass(slots=True)
class Rows:
    """One step: T rows, a multiple of ROWS; those of a sequence lie together.

    ``owner`` int64 [T]: each row's sequence, -1 for none. ``sequences`` int64 [S, 4]: first row, rows, position of the
    first, where its pages begin in ``pages`` int32. ``reaches`` int64 [S]: the length that the angles of the tokens
    within it are chosen by. ``wanted`` int64: rows whose logits are asked for. ``spans``: first and last row, the
    latter exclusive, of rows with an adapter.
    """

    owner: np.ndarray
    sequences: np.ndarray
    reaches: np.ndarray
    pages: np.ndarray
    wanted: np.ndarray
    spans: list[tuple[int, int, Adapter]] = field(default_factory=list)


class Adapter:
    """Low-rank terms of some linear layers: ``y += B A x`` per layer and group; the scale is in B already."""

    def __init__(self, layers: int):
        self.table = (_Adapter * (layers * len(GROUPS)))()
        self.kept: list[Packed] = []  # what the table points to

    def put(self, layer: int, group: str, down: Packed, up: Packed) -> None:
        """Add the terms of one group."""
        self.kept += [down, up]
        self.table[layer * len(GROUPS) + GROUPS.index(group)] = _Adapter(down.c, up.c)


def page_bytes(blueprint: Blueprint) -> int:
    """What a page takes, in all layers together."""
    return len(blueprint.layers) * _page_words(blueprint) * blueprint.dtype.itemsize


def _page_words(blueprint: Blueprint) -> int:
    return blueprint.key_heads * 2 * PAGE * up(blueprint.head_width, GRAIN[blueprint.dtype])


class Decoder:
    """Computes what a blueprint says. Weights are copied; ``refresh`` copies them again.

    Args:
        pages: how many pages of keys and values there are, whose memory is taken when they are first written; or
            those of another decoder of the same sizes.
    """

    def __init__(self, blueprint: Blueprint, pages: int | Tensor):
        self.is_ = blueprint
        dtype = blueprint.dtype
        words = _page_words(blueprint)
        self.pages = pages if isinstance(pages, Tensor) else _untouched((len(blueprint.layers), pages, words), dtype)
        self._norms: list[tuple[Norm, Tensor]] = []
        self._layers = (_Layer * len(blueprint.layers))()
        room = Room(self._words(), dtype)
        self._packed = [self._pack(layer, room) for layer in blueprint.layers]
        self._head = self._pack_head(room)
        self._angles = (_Angles * max(1, len(blueprint.angles)))()
        self._tables: dict[int, list[Tensor]] = {}  # what the kernel's angles point to
        self._known = 0
        for at, layer in enumerate(blueprint.layers):
            self._describe(at, layer)
        self._model = _Model(
            ctypes.addressof(self._layers), ctypes.addressof(self._angles),
            len(blueprint.layers), blueprint.width, blueprint.heads, blueprint.key_heads, blueprint.head_width,
            blueprint.inner, self._norm(blueprint.last), self._head.c, blueprint.vocabulary,
            blueprint.embedding_scale, blueprint.logit_scale, blueprint.logit_cap,
        )  # fmt: skip
        self._run = function(f'decoder_step_{SUFFIX[dtype]}', 'ppi')

    # ------------------------------------------------------------------------------------------------------ forward
    def step(
        self, embedded: Tensor, rows: Rows, *, hidden: Tensor | None = None, layers: tuple[int, int] | None = None
    ) -> Tensor:
        """Logits fp32 [wanted, V] of the rows asked for; keys and values of all rows go to their pages.

        Args:
            embedded: [T, d] what goes into the first layer.
            hidden: [T, d] gets what comes out of the last layer.
            layers: only those from the first to the second, exclusive.
        """
        blueprint = self.is_
        if len(rows.sequences):
            self._learn_angles(rows)
        logits = torch.empty(len(rows.wanted), blueprint.vocabulary)
        spans = (_Span * len(rows.spans))(
            *(_Span(start, end, ctypes.addressof(adapter.table)) for start, end, adapter in rows.spans)
        )
        assert embedded.is_contiguous() and len(embedded) == len(rows.owner) and len(embedded) % ROWS == 0
        step = _Step(
            embedded.data_ptr(), rows.owner.ctypes.data, rows.sequences.ctypes.data, rows.pages.ctypes.data,
            rows.wanted.ctypes.data, ctypes.addressof(spans), logits.data_ptr(),
            None if hidden is None else hidden.data_ptr(),
            len(embedded), len(rows.sequences), len(rows.wanted), len(spans),
        )  # fmt: skip
        part = self._part(layers)
        self._run(ctypes.addressof(part), ctypes.addressof(step), flash.TILES)
        return logits

    def _part(self, layers: tuple[int, int] | None) -> _Model:
        if layers is None:
            return self._model
        part = _Model.from_buffer_copy(self._model)
        part.layers += layers[0] * ctypes.sizeof(_Layer)
        part.count, part.embedding_scale = layers[1] - layers[0], 1.0
        return part

    def _learn_angles(self, rows: Rows) -> None:
        """Have the angles of a step: for each row where they move, else for all positions so far and some more."""
        firsts, counts, starts, _ = rows.sequences.T
        longest = int((starts + counts).max())
        if longest > self._known:
            self._known = up(longest, 1024)
            for at, angles in enumerate(self.is_.angles):
                if not angles.moving:
                    self._keep(at, angles, torch.arange(self._known), torch.full((self._known,), self._known))
        if any(angles.moving for angles in self.is_.angles):
            positions = np.where(rows.owner < 0, 0, np.arange(len(rows.owner)) + (starts - firsts)[rows.owner])
            reaches = np.maximum(positions + 1, rows.reaches[rows.owner])
            for at, angles in enumerate(self.is_.angles):
                if angles.moving:
                    self._keep(at, angles, torch.from_numpy(positions), torch.from_numpy(reaches))

    def _keep(self, at: int, angles: Angles, positions: Tensor, reaches: Tensor) -> None:
        """Angles as the kernel reads them."""
        cos, sin = self._tables[at] = [each.float().contiguous() for each in angles.of(positions, reaches)]
        self._angles[at] = _Angles(cos.data_ptr(), sin.data_ptr(), cos.shape[1], angles.adjacent, angles.moving)

    # ------------------------------------------------------------------------------------------------------ weights
    def refresh(self) -> None:
        """Copy the weights anew, after an update."""
        for layer, (qkv, out, gate_up, down) in zip(self.is_.layers, self._packed, strict=True):
            self._fill(layer, qkv, out, gate_up, down)
        fill(self._head, self.is_.head.module.weight, Place(0, PANEL, 0), bias=self.is_.head.module.bias)
        for norm, copy in self._norms:
            copy.copy_(norm.weight.detach().float() + norm.offset)

    @property
    def bytes(self) -> int:
        """What the copies of the weights take."""
        packed = [self._head, *(each for layer in self._packed for each in layer)]
        return sum(each.weight.nbytes for each in packed)

    def places(self, group: str) -> list[Place]:
        """Where the outputs of a group's matrices lie."""
        if group == 'gate_up':
            return side_by_side()
        if group == 'qkv':
            return in_a_row(self._qkv_sizes)
        return [Place(0, PANEL, 0)]

    @property
    def _qkv_sizes(self) -> tuple[int, ...]:
        return tuple(self.is_.head_width * n for n in (self.is_.heads, self.is_.key_heads, self.is_.key_heads))

    def sizes(self, group: str) -> tuple[int, ...]:
        """Outputs of the matrices of a group, as the kernel sees them."""
        each = self.is_.inner
        return {'qkv': self._qkv_sizes, 'gate_up': (each, each)}.get(group, (self.is_.width,))

    def panels(self, group: str) -> int:
        """Panels of a group."""
        if group == 'gate_up':
            return up(self.is_.inner, PANEL) * 2 // PANEL
        return sum(up(size, PANEL) // PANEL for size in self.sizes(group))

    def inputs(self, group: str) -> int:
        """What goes into a group."""
        return {'out': self.is_.heads * self.is_.head_width, 'down': self.is_.inner}.get(group, self.is_.width)

    def _words(self) -> int:
        """Of all weights."""
        layer = sum(self.panels(group) * up(self.inputs(group), 32) for group in GROUPS)
        head = up(self.is_.vocabulary, PANEL) // PANEL * up(self.is_.width, 32)
        return (len(self.is_.layers) * layer + head) * PANEL

    def _pack(self, layer: Layer, room: Room) -> tuple[Packed, ...]:
        parts = {'qkv': layer.qkv, 'out': [layer.out], 'gate_up': layer.gate_up, 'down': [layer.down]}
        made = tuple(
            empty(
                self.panels(g),
                self.inputs(g),
                self.is_.dtype,
                bias=any(each.module.bias is not None for each in parts[g]),
                room=room,
            )
            for g in GROUPS
        )
        self._fill(layer, *made)
        return made

    def _fill(self, layer: Layer, qkv: Packed, out: Packed, gate_up: Packed, down: Packed) -> None:
        parts = (
            (qkv, 'qkv', layer.qkv),
            (out, 'out', [layer.out]),
            (gate_up, 'gate_up', layer.gate_up),
            (down, 'down', [layer.down]),
        )
        for packed, group, linears in parts:
            weights = _cut([each.module.weight for each in linears], self.sizes(group))
            biases = _cut([_bias(each) for each in linears], self.sizes(group))
            for weight, bias, place in zip(weights, biases, self.places(group), strict=True):
                fill(packed, weight, place, bias=bias)

    def _pack_head(self, room: Room) -> Packed:
        head = self.is_.head.module
        panels = up(self.is_.vocabulary, PANEL) // PANEL
        made = empty(panels, self.is_.width, self.is_.dtype, bias=head.bias is not None, room=room)
        fill(made, head.weight, Place(0, PANEL, 0), bias=head.bias)
        return made

    def _norm(self, norm: Norm | None) -> _Norm:
        if norm is None:
            return _Norm(None, 0.0)
        copy = norm.weight.detach().float() + norm.offset
        self._norms.append((norm, copy))
        return _Norm(copy.data_ptr(), norm.eps)

    def _describe(self, at: int, layer: Layer) -> None:
        qkv, out, gate_up, down = (each.c for each in self._packed[at])
        sinks = None
        if layer.sinks is not None:
            copy = layer.sinks.detach().float().reshape(-1) + 0.0
            self._norms.append((Norm(layer.sinks, 0.0, 0.0), copy))
            sinks = copy.data_ptr()
        self._layers[at] = _Layer(
            self._norm(layer.before), qkv, self._norm(layer.query), self._norm(layer.key), out, self._norm(layer.after),
            self._norm(layer.before_mlp), gate_up, down, self._norm(layer.after_mlp),
            sinks, self.pages[at].data_ptr(), layer.scale, layer.cap, layer.share, layer.share,
            layer.window, layer.rotary, ACTS.index(layer.act),
        )  # fmt: skip


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written, at the beginning of a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return torch.from_numpy(room[start : start + size]).view(dtype).view(shape)


def _bias(linear: Linear) -> Tensor:
    module = linear.module
    return torch.zeros(module.out_features) if module.bias is None else module.bias


def _cut(tensors: list[Tensor], sizes: Sequence[int]) -> Sequence[Tensor]:
    """The matrices of a group, where they may lie in one."""
    return tensors if len(tensors) == len(sizes) else tensors[0].split(list(sizes))
