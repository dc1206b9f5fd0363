"""AdamW in one pass over each weight: clipping, moments, decay, step and the model's rounded copy.

Decoupled weight decay, arXiv 1711.05101, algorithm 2, in the order of ``torch.optim.AdamW`` and with its state names.
Beyond it: moments, or weights without fp32 masters, may be bf16; they are rounded stochastically, up or down with the
probability that makes the mean exact (arXiv 2010.06192, section 3). The random bits are a hash of seed, step, weight
and place, so that a resumed run rounds as one that went on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swift.kernels import device
from swift.kernels.compiled import function
from swift.kernels.norm import SUFFIX

MOMENTS = ('exp_avg', 'exp_avg_sq')
LOW = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """The numbers of one update. ``scale`` multiplies the gradient first: 1, or what clipping asks for."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    step: int  # counted from 1
    scale: float = 1.0
    key: int = 0  # of the random bits, 64 bits


class Place(NamedTuple):
    """Where a weight stands among all, for its random bits, and its parameter group."""

    number: int
    group: dict[str, Any]


class AdamW(torch.optim.Optimizer):
    """``torch.optim.AdamW`` in one pass, which may keep its state and the weights in bf16.

    Args:
        params, lr, betas, eps, weight_decay: as of ``torch.optim.AdamW``.
        moments: dtype of exp_avg and exp_avg_sq.
        seed: of the stochastic rounding of what is kept in bf16.

    Attributes:
        copies: the model's bf16 weight of an fp32 master, written in the same pass. A master without a gradient takes
            its copy's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        moments: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        super().__init__(params, {'lr': lr, 'betas': betas, 'eps': eps, 'weight_decay': weight_decay})
        self.moments, self.seed = moments, seed
        self.copies: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, scale: float = 1.0) -> Any:  # type: ignore[override]
        """One update of every weight that has a gradient, which is first multiplied by ``scale``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, place in self.places().items():
            copy = self.copies.get(weight)
            grad = copy.grad if weight.grad is None and copy is not None else weight.grad
            if grad is not None:
                self.move(weight, grad, place, scale=scale)
        return loss

    def places(self) -> dict[Tensor, Place]:
        """Every weight in the order of the groups, with what a ``move`` of it needs to know."""
        pairs = [(weight, group) for group in self.param_groups for weight in group['params']]
        return {weight: Place(number, group) for number, (weight, group) in enumerate(pairs)}

    @torch.no_grad()
    def move(self, weight: Tensor, grad: Tensor, place: Place, *, scale: float = 1.0) -> None:
        """One update of one weight, by a gradient in fp32 or bf16."""
        state = self.state[weight] or self._begin(weight)
        state['step'] += 1
        step = int(state['step'])
        rule = Rule(
            **{name: place.group[name] for name in ('lr', 'betas', 'eps', 'weight_decay')},
            step=step,
            scale=scale,
            key=mix(self.seed, step, place.number),
        )
        update_(weight, grad, state['exp_avg'], state['exp_avg_sq'], rule, copy=self.copies.get(weight))

    def prepare(self) -> None:
        """Make the moments that the first step would make."""
        for weight in self.places():
            if not self.state[weight]:
                self._begin(weight)

    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        zeros = {name: torch.zeros_like(weight, dtype=self.moments) for name in MOMENTS}
        self.state[weight] = {'step': torch.tensor(0.0), **zeros}
        return self.state[weight]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, except that moments keep their dtype: torch gives them the weight's."""
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict['param_groups'] for number in group['params'])
        weights = (weight for group in self.param_groups for weight in group['params'])
        for number, weight in zip(numbers, weights, strict=True):
            for name in MOMENTS if number in state_dict['state'] else ():
                saved = state_dict['state'][number][name]
                self.state[weight][name] = saved.to(device=weight.device, dtype=self.moments, copy=True)


def update_(
    weight: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, rule: Rule, *, copy: Tensor | None = None
) -> None:
    """Move ``weight`` and its moments in place; ``copy`` becomes the weight rounded to bf16.

    Args:
        weight: fp32 or bf16; grad: fp32 or bf16; exp_avg, exp_avg_sq: both fp32 or both bf16. All of one shape.
    """
    tensors = [weight, grad, exp_avg, exp_avg_sq, *([] if copy is None else [copy])]
    fused = all(device.fused(each) and each.device.type == 'cpu' and each.is_contiguous() for each in tensors)
    if not fused or exp_avg.dtype != exp_avg_sq.dtype or (copy is not None and copy.dtype != torch.bfloat16):
        plain_(weight, grad, exp_avg, exp_avg_sq, rule, copy=copy)
        return
    run = function(f'adamw_{SUFFIX[weight.dtype]}_{SUFFIX[grad.dtype]}_{SUFFIX[exp_avg.dtype]}', 'ppppp iii fffffff')
    rate, keep, correction = _numbers(rule)
    salt, key = rule.key >> 32, rule.key & LOW
    run(weight, copy, grad, exp_avg, exp_avg_sq, weight.numel(), key, salt, rate, *rule.betas, rule.eps, keep,
        rule.scale, correction)  # fmt: skip


def plain_(
    weight: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, rule: Rule, *, copy: Tensor | None = None
) -> None:
    """The same in torch's operations, with the same random bits."""
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    beta1, beta2 = rule.betas
    rate, keep, correction = _numbers(rule)
    each = grad.to(wide) * rule.scale
    mean = torch.lerp(exp_avg.to(wide), each, 1 - beta1)
    square = beta2 * exp_avg_sq.to(wide) + (1 - beta2) * each * each
    moved = weight.to(wide) * keep - rate * mean / (square.sqrt() / correction + rule.eps)
    random = any(each.dtype == torch.bfloat16 for each in (weight, exp_avg))
    first, second = _bits(weight, rule.key) if random else (None, None)
    _store_(weight, moved, first)
    _store_(exp_avg, mean, first if first is None else first >> 16)
    _store_(exp_avg_sq, square, second)
    if copy is not None:
        copy.copy_(weight)


def _numbers(rule: Rule) -> tuple[float, float, float]:
    """The rate with the first moment's correction, what decay leaves, and the root of the second's correction."""
    beta1, beta2 = rule.betas
    return rule.lr / (1 - beta1**rule.step), 1 - rule.lr * rule.weight_decay, math.sqrt(1 - beta2**rule.step)


def mix(*numbers: int) -> int:
    """64 bits that look random and depend on every number (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def _bits(like: Tensor, key: int) -> tuple[Tensor, Tensor]:
    """32 random bits twice for each place, int64, as cpp/adamw.cpp has them."""
    place = torch.arange(like.numel(), device=like.device).view(like.shape)
    salt = key >> 32 ^ place >> 32
    first = _hash(place + key & LOW, salt)
    return first, _hash(first, salt)


def _hash(x: Tensor, salt: Tensor) -> Tensor:
    x = (x ^ x >> 16) * 0x7FEB352D & LOW
    x = (x ^ x >> 15 ^ salt) * 0x846CA68B & LOW
    return x ^ x >> 16


def _store_(to: Tensor, value: Tensor, random: Tensor | None) -> None:
    """Into bf16 by adding 16 random bits below the kept ones and cutting there."""
    if to.dtype == torch.bfloat16 and random is not None:
        bits = value.float().view(torch.int32).to(torch.int64) & LOW
        cut = (bits + (random & 0xFFFF)) >> 16 << 16
        cut = torch.where(cut >= 1 << 31, cut - (1 << 32), cut).to(torch.int32)  # int32 has a sign
        value = torch.where(value.isnan(), value, cut.view(torch.float32))
    to.copy_(value)
