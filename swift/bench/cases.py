"""Each kernel beside the plain operations it stands for: a table of what ``swift bench kernels`` times and checks.

A case makes tensors for a shape, and has two functions of them that compute the same. The truth is the plain one in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adamw import adamw as torch_adamw

from swift.core.types import Segments
from swift.kernels import adamw, check, gated, norm, residual, rotary
from swift.kernels.attention import packed_attention
from swift.kernels.logprobs import Head, linear_logprobs
from swift.kernels.lora import Member, lora_group, plain_group

EPS, SCALE = 1e-5, 4.0
RULE = adamw.Rule(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, step=3, scale=0.5, key=7)
Made = Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that kernels see, and the lengths of the sequences of a pack."""

    d: int
    inner: int
    heads: tuple[int, int, int]  # H, K, D
    vocabulary: int
    lengths: tuple[int, ...]
    rank: int = 8

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


PACK = (411, 37, 120, 64, 288, 15, 202, 90, 531, 77, 213)  # 2048 tokens
SHAPES = {
    'tiny': Shape(32, 64, (4, 2, 8), 400, (7, 1, 24)),
    'SmolLM2-135M': Shape(576, 1536, (9, 3, 64), 49152, PACK),
    'Llama-3-8B': Shape(4096, 14336, (32, 8, 128), 128256, PACK),
}


@dataclass(frozen=True, slots=True)
class Case:
    """``make(shape)`` gives tensors on the CPU in fp32; those numbered in ``learns`` have gradients.

    ``fast`` and ``plain`` take (tensors, shape) and give outputs. ``moves``: they write into the tensors.
    """

    name: str
    make: Callable[[Shape], Made]
    learns: tuple[int, ...]
    fast: Callable[[Made, Shape], Made]
    plain: Callable[[Made, Shape], Made]
    moves: bool = False


def _rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _attention(x: Made, shape: Shape, *, fast: bool) -> Made:
    """Packed attention, by the kernel or one sequence after the other."""
    q, k, v = x
    return packed_attention(torch.nn.Module(), q, k, v, None, segments=Segments(shape.lengths), fast=fast)[:1]


def _attention_tensors(shape: Shape) -> Made:
    heads, groups, width = shape.heads
    return [_rand(1, count, shape.tokens, width) for count in (heads, groups, groups)]


def _group(shape: Shape) -> Segments:
    """Half the tokens are a prefix, the rest four sequences that go on after it."""
    part = shape.tokens // 8
    return Segments((shape.tokens - 4 * part, *(part,) * 4), (-1, 0, 0, 0, 0))


def _turning_tensors(shape: Shape) -> Made:
    """Queries and keys as linear layers leave them, and cosines and sines."""
    heads, groups, width = shape.heads
    angles = torch.arange(shape.tokens)[:, None] * 10000.0 ** -torch.linspace(0, 1, width // 2)
    q, k = (_rand(1, shape.tokens, count, width) for count in (heads, groups))
    return [q, k, *(each.repeat(1, 2)[None] for each in (angles.cos(), angles.sin()))]


def _heads_first(x: Made) -> Made:
    return [each.transpose(1, 2) for each in x[:2]]


def _step_tensors(shape: Shape) -> Made:
    """A weight, its gradient and moments."""
    weight, grad, mean, square = (_rand(shape.inner, shape.d) for _ in range(4))
    return [weight, grad, mean, square.square()]


def _step(x: Made, shape: Shape) -> Made:
    weight, grad, mean, square = x
    adamw.update_(weight, grad, mean, square, RULE)
    return [weight, mean, square]


def _torch_step(x: Made, shape: Shape) -> Made:
    """The same as torch takes it, one operation after the other."""
    weight, grad, mean, square = x
    (beta1, beta2), before = RULE.betas, torch.tensor(RULE.step - 1.0)
    torch_adamw(
        [weight], [grad * RULE.scale], [mean], [square], [], [before], foreach=False, amsgrad=False, beta1=beta1,
        beta2=beta2, lr=RULE.lr, weight_decay=RULE.weight_decay, eps=RULE.eps, maximize=False,
    )  # fmt: skip
    return [weight, mean, square]


def _targets(x: Made) -> Tensor:
    """Targets that depend on nothing but their number."""
    return torch.arange(len(x[0]), device=x[0].device) * 7919 % len(x[1])


def _plain_logprobs(x: Made, shape: Shape) -> Made:
    hidden, weight = x
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return [-F.cross_entropy(F.linear(hidden, weight).to(wide), _targets(x), reduction='none')]


def _lora_tensors(shape: Shape) -> Made:
    """x, then W, A, B of q, k and v."""
    heads, groups, width = shape.heads
    tensors = [_rand(shape.tokens, shape.d)]
    for out in (heads * width, groups * width, groups * width):
        tensors += [_rand(out, shape.d) * 0.02, _rand(shape.rank, shape.d) * 0.02, _rand(out, shape.rank) * 0.02]
    return tensors


def _members(x: Made) -> list[Member]:
    return [Member(lambda w=x[i]: w, None, x[i + 1], x[i + 2], SCALE) for i in range(1, len(x), 3)]


PREFIX = check.CASES['prefix attention']
CASES = {
    case.name: case
    for case in (
        Case(
            'attention', _attention_tensors, (0, 1, 2),
            lambda x, shape: _attention(x, shape, fast=True), lambda x, shape: _attention(x, shape, fast=False),
        ),
        Case(
            'head', lambda s: [_rand(s.tokens // 2, s.d), _rand(s.vocabulary, s.d) * 0.05], (0,),
            lambda x, shape: [linear_logprobs(x[0], Head(x[1]), _targets(x))[0]], _plain_logprobs,
        ),
        Case(
            'lora', _lora_tensors, (0, 2, 3, 5, 6, 8, 9),
            lambda x, shape: lora_group(x[0], _members(x)), lambda x, shape: plain_group(x[0], _members(x)),
        ),
        Case(
            'norm', lambda s: [_rand(s.tokens, s.d), 1 + 0.1 * _rand(s.d)], (0, 1),
            lambda x, shape: [norm.rms_norm(x[0], x[1], EPS)], lambda x, shape: [norm.plain(x[0], x[1], EPS)],
        ),
        Case(
            'residual', lambda s: [_rand(s.tokens, s.d), _rand(s.tokens, s.d), 1 + 0.1 * _rand(s.d)], (0, 1, 2),
            lambda x, shape: [*residual.residual_norm(x[0], x[1], x[2], EPS)],
            lambda x, shape: [*residual.plain(x[0], x[1], x[2], EPS)],
        ),
        Case(
            'gated', lambda s: [_rand(s.tokens, s.inner), _rand(s.tokens, s.inner)], (0, 1),
            lambda x, shape: [gated.gated(x[0], x[1])], lambda x, shape: [F.silu(x[0]) * x[1]],
        ),
        Case(
            'rotary', _turning_tensors, (0, 1),
            lambda x, shape: rotary.rotary(*_heads_first(x), x[2], x[3]),
            lambda x, shape: [rotary.plain(each, x[2], x[3]) for each in _heads_first(x)],
        ),
        Case(
            'shared prefix', _attention_tensors, (0, 1, 2),
            lambda x, shape: [PREFIX.fast(*x, _group(shape))], lambda x, shape: [PREFIX.plain(*x, _group(shape))],
        ),
        Case('adamw', _step_tensors, (), _step, _torch_step, moves=True),
    )
}  # fmt: skip
