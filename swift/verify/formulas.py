"""Objectives against their papers: a step of random rows, a model of bigrams in float64, and NumPy written anew.

The gradient is held against differences of the reference, never of the objective itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np

from swift.core.types import Encoded, Objective
from swift.kernels.divergence import Divergence
from swift.objectives import trial
from swift.objectives.entry import ALIGNMENT, DISTILLATION, Method
from swift.objectives.trial import Measured, View, Weights
from swift.verify.finding import Finding

PART = 'method'
VALUE, GRADIENT, SAME = 1e-10, 1e-6, 1e-12
"""Allowed differences: of a loss from its reference, of a gradient from finite differences, of two ways to one step."""
SPLITS = ([[0, 1, 2], [3, 4, 5]], [[5], [3, 0], [1, 4, 2]], [[i] for i in range(trial.ROWS)])
"""Ways to cut a step of ROWS rows into micro-batches, in different orders."""
MODELS = Weights.random(2), Weights.random(1)
"""Policy and reference, of which the term of KTO that spans the step is above 0."""


def check(name: str, method: Method) -> Iterator[Finding]:
    """What is found of a method with the flags that it is to be tried with."""
    shown = {'part': PART, 'name': name, 'place': place(method.code)}
    rows = rows_of(method)
    worst = {'loss': (0.0, ''), 'gradient': (0.0, '')}
    for how in method.tried:
        found = measured(objective(method, how), rows, view=view(method, how))
        expected = trial.by_reference(lambda rows, how=how: attribute(method.reference)(rows, **how), rows, *MODELS)
        for what, far in zip(worst, apart(found, expected), strict=True):
            if not far <= worst[what][0]:
                worst[what] = far, f'with {how or "the default flags"}'
    for what, allowed in (('loss', VALUE), ('gradient', GRADIENT)):
        yield Finding(what=what, difference=worst[what][0], allowed=allowed, note=worst[what][1], **shown)
    how = method.tried[-1]
    made, seen = objective(method, how), view(method, how)
    whole = measured(made, rows, view=seen)
    far = float(np.max([distance(measured(made, rows, split, view=seen), whole) for split in SPLITS]))
    yield Finding(what='cuts', difference=far, allowed=SAME, note='between ways to cut the step', **shown)
    if method.told:
        expected = attribute(method.told)(trial.written_out(rows, *MODELS))
        far = {each: abs(whole.metrics.get(each, np.nan) - value) for each, value in expected.items()}
        most = max(far, key=lambda each: (far[each] != far[each], far[each]))
        yield Finding(what='metrics', difference=far[most], allowed=VALUE, note=f'most in {most}', **shown)


def objective(method: Method, how: dict[str, Any]) -> Objective:
    """The method's objective with these flags."""
    flags = {**method.given, **how}
    make = attribute(method.make)
    return make(_group(method.group, flags)) if method.group else make(**flags)


def divergence(method: Method, how: dict[str, Any]) -> Divergence | None:
    """What compares the method's model with a teacher; None where it has none."""
    if not method.divergence:
        return None
    return attribute(method.divergence)(*(_group(each, {**method.given, **how}) for each in (ALIGNMENT, DISTILLATION)))


def view(method: Method, how: dict[str, Any]) -> View:
    """What the method is shown of the bigram model; the reference teaches."""
    return View(method.reads, method.scores, MODELS[1], divergence(method, how))


def _group(path: str, flags: dict[str, Any]) -> Any:
    """The group of flags with those of ``flags`` that belong to it."""
    kind = attribute(path)
    return kind(**{each.name: flags[each.name] for each in dataclasses.fields(kind) if each.name in flags})


def rows_of(method: Method) -> list[Encoded]:
    """Rows of the kind that the method learns from, always the same."""
    return getattr(trial, method.rows)(0)


def formula(method: Method) -> str:
    """The formula as the code has it: the first line of its docstring."""
    return (inspect.getdoc(attribute(method.code)) or '').partition('\n')[0]


def attribute(path: str) -> Any:
    """What 'module:name' names."""
    module, _, name = path.partition(':')
    return getattr(importlib.import_module(module), name)


def place(path: str) -> str:
    """File and line of 'module:name'."""
    found = attribute(path)
    return f'{path.partition(":")[0].replace(".", "/")}.py:{inspect.getsourcelines(found)[1]}'


def measured(made: Objective, rows: list[Encoded], split: Any = None, *, view: View | None = None) -> Measured:
    return trial.measure(made, trial.batches(rows, split or [range(len(rows))]), *MODELS, view)


def apart(one: Measured, other: Measured) -> tuple[float, float]:
    """Differences of loss and gradient, relative to the latter of them where that is more than 1."""
    loss = abs(one.loss - other.loss) / max(1.0, abs(other.loss))
    return loss, float(np.abs(one.gradient - other.gradient).max() / max(1.0, np.abs(other.gradient).max()))


def distance(one: Measured, other: Measured) -> float:
    """The largest difference of losses, gradients and metrics, or what is no number."""
    of_metrics = (abs(one.metrics[name] - value) for name, value in other.metrics.items())
    return float(np.max([*apart(one, other), *of_metrics]))
