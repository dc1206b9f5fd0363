"""Fits the fused kernels to the layers of a transformers model, without touching its weights' names.

A module is a candidate by its parts: one 1-D weight and an epsilon; projections called gate, up and down; a forward
that calls ``apply_rotary_pos_emb``; a forward that hands a sum to a norm. What it does with its parts is found by
trial: its own way and the kernel's get the same random numbers, and only a module that agrees gets the kernel for its
``forward``. Linear layers are called as modules, so adapters, quantised weights and hooks inside them go on as before.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from swift.kernels import device, rewrite
from swift.kernels.gated import PLAIN, Act, gated, gated_packed
from swift.kernels.norm import rms_norm
from swift.kernels.residual import residual_norm
from swift.kernels.residual import takes as takes_residual
from swift.kernels.rotary import rotary
from swift.kernels.rotary import takes as takes_rotary
from swift.kernels.switch import Switch, attach

EPSILONS = ('variance_epsilon', 'eps', 'epsilon', 'norm_eps')


class Projections(NamedTuple):
    """What a gated MLP calls its linear layers; without ``up``, gate and up are halves of one."""

    gate: str
    up: str | None
    down: str


PROJECTIONS = (
    Projections('gate_proj', 'up_proj', 'down_proj'),
    Projections('w1', 'w3', 'w2'),
    Projections('gate_up_proj', None, 'down_proj'),
    Projections('input_linear', None, 'output_linear'),
)

TOLERANCE = 1e-5  # largest relative difference of a module and its kernel in fp32
ODD_ROUNDINGS = 0.02  # largest share of bf16 results that may round another way: a wrong order gives a quarter

Forward = Callable[..., Any]


class Misfit(Exception):
    """Why a module keeps its own forward."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What ``install`` did: the kernels it attached, and why the other candidates were left, by their names."""

    switches: list[Switch]
    left: dict[str, str]


def install(model: nn.Module, *, wanted: Collection[str]) -> Fitted:
    """Give every layer that a kernel of ``wanted`` (a key of ``FITTERS``) computes that kernel."""
    fitted = Fitted([], {})
    for name, (looks_like, fit) in FITTERS.items():
        if name in wanted:
            found = {path: module for path, module in model.named_modules() if looks_like(module)}
            forwards = _fit_each(found, fit, fitted.left)
            if forwards:
                fitted.switches.append(_switch(name, [(found[path], forwards[path]) for path in forwards]))
                attach(model, fitted.switches[-1])
    return fitted


def _fit_each(
    found: dict[str, nn.Module], fit: Callable[[nn.Module], Forward], left: dict[str, str]
) -> dict[str, Forward]:
    """A forward for each module that a kernel computes; modules of one kind are tried once."""
    tried: dict[tuple, Forward | Misfit] = {}
    forwards: dict[str, Forward] = {}
    for path, module in found.items():
        kind = _kind(module)
        if kind not in tried:
            tried[kind] = _try(fit, module)
        outcome = tried[kind]
        if isinstance(outcome, Misfit):
            left[path] = str(outcome)
        else:
            forwards[path] = outcome
    return forwards


def _try(fit: Callable[[nn.Module], Forward], module: nn.Module) -> Forward | Misfit:
    where = next((p.device for p in module.parameters()), torch.device('cpu'))
    try:
        if (why := device.missing(where.type)) is not None:
            raise Misfit(why)
        if 'forward' in module.__dict__:
            raise Misfit('its forward has been replaced before')
        with torch.no_grad(), torch.random.fork_rng(devices=[where] if where.type == 'cuda' else []):
            torch.manual_seed(0)
            return fit(module)
    except Misfit as misfit:
        return misfit


def _kind(module: nn.Module) -> tuple:
    """Equal for modules that do the same with their weights: class, plain settings, and those of its children."""
    settings = (
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, bool | int | float | str | None) or callable(value)
    )
    weights = ((k, p.shape, p.dtype, p.device) for k, p in module.named_parameters(recurse=False))
    children = (_kind(child) for child in module.children())
    return type(module), 'forward' in module.__dict__, *settings, *weights, *children


def _switch(name: str, pairs: list[tuple[nn.Module, Forward]]) -> Switch:
    def on() -> None:
        for module, forward in pairs:
            module.forward = MethodType(forward, module)

    def off() -> None:
        for module, _ in pairs:
            module.__dict__.pop('forward', None)

    return Switch(name, on, off, len(pairs))


# ------------------------------------------------------------------------------------------------------------ RMSNorm
def _looks_like_norm(module: nn.Module) -> bool:
    own = dict(module.named_parameters())
    return set(own) == {'weight'} and own['weight'].dim() == 1 and epsilon(module) is not None


def epsilon(module: nn.Module) -> float | None:
    """The small number that a norm adds, whatever it calls it."""
    values = (vars(module).get(name) for name in EPSILONS)
    return next((value for value in values if isinstance(value, float)), None)


class Way(NamedTuple):
    """How a norm computes."""

    eps: float
    offset: float
    early: bool


def _norm_way(module: Any) -> Way:
    """Found by trial. Raises Misfit."""
    eps, width, where = epsilon(module), len(module.weight), module.weight.device
    assert eps is not None
    size = torch.logspace(-3, 2, max(6, 4096 // width), device=where)[:, None]  # rows for which epsilon is much to nil
    x, weight = torch.randn(len(size), width, device=where) * size, torch.randn(width, device=where)
    short_x, short_weight = x.bfloat16(), weight.bfloat16()
    with _posing(module, parameters={'weight': weight}):
        expected = _own(module, x)
    with _posing(module, parameters={'weight': short_weight}):
        short = _own(module, short_x)

    odd: dict[tuple[float, bool], float] = {}
    for way in ((0.0, True), (0.0, False), (1.0, True), (1.0, False)):
        offset, early = way
        if _difference(rms_norm(x, weight, eps, offset=offset, early=early), expected) < TOLERANCE:
            rounded = rms_norm(short_x, short_weight, eps, offset=offset, early=early)
            odd[way] = float((rounded != short).float().mean()) if rounded.dtype == short.dtype else 1.0
    if not odd:
        raise Misfit('it does not compute RMSNorm')
    (offset, early), share = min(odd.items(), key=lambda item: item[1])
    if share > ODD_ROUNDINGS:
        raise Misfit('it rounds in another order')
    return Way(eps, offset, early)


def _fit_norm(module: Any) -> Forward:
    eps, offset, early = _norm_way(module)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) == 1 and not kwargs and device.fused(args[0], self.weight):
            return rms_norm(args[0], self.weight, eps, offset=offset, early=early)
        return type(self).forward(self, *args, **kwargs)

    return forward


# ------------------------------------------------------------------------------------------------- residual and norm
def _looks_residual(module: nn.Module) -> bool:
    return bool(_summed_norms(module))


def _summed_norms(module: nn.Module) -> dict[str, nn.Module]:
    """Norms that get a sum in the module's forward."""
    norms = {name: child for name, child in module.named_children() if _looks_like_norm(child)}
    summed = rewrite.sums(type(module).forward) if norms else ()
    return {name: norms[name] for name in summed if name in norms}


def _fit_residual(module: nn.Module) -> Forward:
    """The module's own forward, in which a sum and the norm of it are one call."""
    ways: dict[str, tuple[Any, Way]]
    ways = {name: (type(norm), _norm_way(norm)) for name, norm in _summed_norms(module).items()}

    def together(x: Tensor, delta: Tensor, layer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
        norm, (kind, way) = getattr(layer, name), ways[name]
        if type(norm) is kind and not _watched(norm) and takes_residual(x, delta, norm.weight):
            return residual_norm(x, delta, norm.weight, way.eps, offset=way.offset, early=way.early)
        total = x + delta
        return total, norm(total)

    try:
        return rewrite.rewritten(type(module).forward, ways, together)
    except rewrite.CannotRewrite as why:
        raise Misfit(str(why)) from None


def _watched(module: nn.Module) -> bool:
    """Whether somebody wants to be told when the module is called."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)


# ---------------------------------------------------------------------------------------------------------- gated MLP
def _looks_like_gated(module: nn.Module) -> bool:
    return _projections(module) is not None


def _projections(module: nn.Module) -> Projections | None:
    children = dict(module.named_children())
    return next((p for p in PROJECTIONS if all(name in children for name in p if name)), None)


class _Given(nn.Module):
    """Stands for a linear layer: answers with a given tensor, or its input, and keeps what it was called with."""

    def __init__(self, answer: Tensor | None = None):
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x)
        return x if self.answer is None else self.answer


def _fit_gated(module: nn.Module) -> Forward:
    names = _projections(module)
    assert names is not None
    where = next((p.device for p in module.parameters()), torch.device('cpu'))
    x = torch.randn(1, 4, 64, device=where)
    both = torch.randn(1, 4, 512, device=where) * torch.tensor([0.1, 1.0, 3.0, 20.0], device=where)[:, None]
    gate, up = (half.contiguous() for half in both.chunk(2, -1))
    answers = {names.gate: gate, names.up: up} if names.up else {names.gate: both}
    layers = {name: _Given(answer) for name, answer in answers.items()} | {names.down: _Given()}
    with _posing(module, modules=layers):
        expected = _own(module, x)
    if any(len(layer.calls) != 1 for layer in layers.values()) or any(
        layers[name].calls[0] is not x for name in answers
    ):
        raise Misfit('it does not call each of its projections once')
    acts: list[Act] = [each for each in PLAIN if _difference(gated(gate, up, each), expected) < TOLERANCE]
    if not acts:
        raise Misfit(f'it does not compute the product of {", ".join(PLAIN)} of the gate, and up')
    act = acts[0]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) != 1 or kwargs:
            return type(self).forward(self, *args, **kwargs)
        gate = getattr(self, names.gate)(args[0])
        inner = gated(gate, getattr(self, names.up)(args[0]), act) if names.up else gated_packed(gate, act)
        return getattr(self, names.down)(inner)

    return forward


# ------------------------------------------------------------------------------------------------------------- rotary
ROTARY = 'apply_rotary_pos_emb'
"""What transformers calls the function that turns queries and keys, a global of every modeling module."""


class Turn(NamedTuple):
    """How a model's function turns: which pairs, and what it takes."""

    adjacent: bool
    spread: bool  # angles come as [first half, first half] and are spread over adjacent pairs
    partial: bool = False  # fewer angles than numbers in a head
    mixed: bool = False  # fp32 angles, and results of the heads' own type


def _looks_rotary(module: nn.Module) -> bool:
    forward = inspect.unwrap(type(module).forward)
    return isinstance(forward, FunctionType) and ROTARY in forward.__code__.co_names


def _fit_rotary(module: nn.Module) -> Forward:
    """The module's own forward, for which ``apply_rotary_pos_emb`` means the kernel."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or hasattr(forward, '__wrapped__'):
        raise Misfit('its forward is decorated')
    where = next((p.device for p in module.parameters()), torch.device('cpu'))
    turn = _find_turn(forward.__globals__[ROTARY], where)
    fitted = FunctionType(
        forward.__code__,
        _namespace(forward.__globals__, turn),
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    fitted.__kwdefaults__ = forward.__kwdefaults__
    return fitted


def _find_turn(original: Forward, where: torch.device) -> Turn:
    q, k = torch.randn(2, 3, 5, 16, device=where), torch.randn(2, 1, 5, 16, device=where)
    cos, sin = torch.randn(2, 2, 5, 16, device=where)
    expected = _turned(original, q, k, cos, sin)
    ways = [Turn(False, False), Turn(True, False), Turn(True, True)]
    way = next((way for way in ways if _difference(_turn(way, q, k, cos, sin)[0], expected[0]) < TOLERANCE), None)
    if way is None or _difference(_turn(way, q, k, cos, sin)[1], expected[1]) >= TOLERANCE:
        raise Misfit('it does not compute rotary positions')
    return way._replace(
        partial=_agrees(way, original, q, k, cos[..., :8], sin[..., :8], TOLERANCE),
        mixed=_agrees(way, original, q.bfloat16(), k.bfloat16(), cos, sin, 2e-2),
    )


def _agrees(way: Turn, original: Forward, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, tolerance: float) -> bool:
    try:
        expected = _turned(original, q, k, cos, sin)
    except Misfit:
        return False
    return _difference(_turn(way, q, k, cos, sin)[0], expected[0]) < tolerance


def _turned(original: Forward, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """What the model's own function gives. Raises Misfit where it takes or gives something else."""
    try:
        first, second = original(q, k, cos, sin)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise Misfit(f'its {ROTARY} takes something else ({type(error).__name__}: {str(error)[:80]})') from error
    return first, second


def _turn(way: Turn, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    if way.spread:
        cos, sin = (each[..., : each.shape[-1] // 2].repeat_interleave(2, -1) for each in (cos, sin))
    return rotary(q, k, cos, sin, adjacent=way.adjacent)


def _namespace(module: dict[str, Any], way: Turn) -> dict[str, Any]:
    """The globals of a modeling module, with the kernel in place of its rotary function.

    It is a module of its own, since torch.compile looks a function's globals up by their module's name.
    """
    name = f'{__name__}.{module["__name__"]}'
    if name in sys.modules:
        return vars(sys.modules[name])
    original = module[ROTARY]

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        covered = (way.partial or cos.shape[-1] == q.shape[-1]) and (way.mixed or cos.dtype == q.dtype)
        if args or kwargs or not covered or not takes_rotary(q, k, cos, sin):
            return original(q, k, cos, sin, *args, **kwargs)
        return _turn(way, q, k, cos, sin)

    copied = ModuleType(name)
    vars(copied).update({**module, ROTARY: apply, '__name__': name})
    sys.modules[name] = copied
    return vars(copied)


FITTERS: dict[str, tuple[Callable[[nn.Module], bool], Callable[[nn.Module], Forward]]] = {
    'residual': (_looks_residual, _fit_residual),
    'norm': (_looks_like_norm, _fit_norm),
    'gated': (_looks_like_gated, _fit_gated),
    'rotary': (_looks_rotary, _fit_rotary),
}


# -------------------------------------------------------------------------------------------------------------- trial
@contextmanager
def _posing(
    module: nn.Module, *, parameters: Mapping[str, Tensor] = {}, modules: Mapping[str, nn.Module] = {}
) -> Iterator[None]:
    """Within, the module trains with other weights or children."""
    before = dict(module._parameters), dict(module._modules), {each: each.training for each in module.modules()}
    try:
        module.train()
        module._parameters.update(
            {name: nn.Parameter(value, requires_grad=False) for name, value in parameters.items()}
        )
        module._modules.update(modules)
        yield
    finally:
        module._parameters.update(before[0])
        module._modules.update(before[1])
        for each, training in before[2].items():
            each.training = training


def _own(module: nn.Module, x: Tensor) -> Tensor:
    """The module's own forward. Raises Misfit where it does not take a tensor and give one."""
    try:
        out = module.forward(x)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise Misfit(f'it takes more than a tensor ({type(error).__name__}: {str(error)[:80]})') from error
    if not isinstance(out, Tensor):
        raise Misfit(f'it gives a {type(out).__name__}, not a tensor')
    return out


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float('inf')
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
