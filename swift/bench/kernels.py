"""``swift bench kernels``: every kernel against its plain twin in one process, forwards and backwards.

Times are only told. Numbers decide: a kernel is wrong when it is further from the float64 truth than its plain twin,
by more than ``SLACK`` times and the rounding of the type.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.bench.cases import CASES, SHAPES, Case, Made, Shape

SLACK = 2.0
ROUNDING = {torch.bfloat16: 8e-3, torch.float16: 2e-3, torch.float32: 1e-5}


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds of a forward and backward pass, and relative errors of all outputs and gradients (the worst)."""

    case: str
    shape: str
    dtype: str
    fast: float
    plain: float
    fast_error: float
    plain_error: float

    @property
    def ratio(self) -> float:
        """How many times faster the kernel is."""
        return self.plain / self.fast

    @property
    def right(self) -> bool:
        """Whether its numbers are as good as the plain ones'."""
        return self.fast_error <= max(SLACK * self.plain_error, ROUNDING[getattr(torch, self.dtype)])


def measure(names: list[str], shapes: list[str], device: str, *, tries: int) -> Iterator[Result]:
    """Each case in each shape. The two run in turn, so that a busy machine hurts both."""
    for shape in shapes:
        for name in names or CASES:
            for dtype in (torch.bfloat16, torch.float32):
                yield _measure(CASES[name], shape, device, dtype, tries)


def table_of(results: list[Result]) -> list[tuple[str, ...]]:
    """Rows for ``core.table``."""
    rows = [('kernel', 'shape', 'type', 'ms', 'eager ms', 'times faster', 'error', "eager's", '')]
    for each in results:
        numbers = (f'{each.fast:.2f}', f'{each.plain:.2f}', f'{each.ratio:.2f}')
        errors = (f'{each.fast_error:.1e}', f'{each.plain_error:.1e}', '' if each.right else 'WRONG')
        rows.append((each.case, each.shape, each.dtype, *numbers, *errors))
    return rows


def _measure(case: Case, shape_name: str, device: str, dtype: torch.dtype, tries: int) -> Result:
    shape = SHAPES[shape_name]
    torch.manual_seed(0)
    made = [tensor.to(dtype) for tensor in case.make(shape)]
    pulls = [torch.randn_like(out) for out in case.plain([x.clone() for x in made], shape)]
    truth = _run(case, case.plain, [x.double() for x in made], pulls, shape)[1]
    inputs, pulls = [x.to(device) for x in made], [pull.to(device) for pull in pulls]
    times: dict[str, list[float]] = {'fast': [], 'plain': []}
    errors = {}
    for number in range(tries + 1):
        for name, function in (('fast', case.fast), ('plain', case.plain)):
            seconds, found = _run(case, function, inputs, pulls, shape)
            if number:
                times[name].append(1e3 * seconds)
            else:  # the first warms up, and is looked at
                errors[name] = max(_error(a, b) for a, b in zip(found, truth, strict=True))
    fast, plain = (float(np.median(times[name])) for name in ('fast', 'plain'))
    named = str(dtype).removeprefix('torch.')
    return Result(case.name, shape_name, named, fast, plain, errors['fast'], errors['plain'])


def _run(case: Case, function: Any, made: Made, pulls: Made, shape: Shape) -> tuple[float, list[Tensor]]:
    """Seconds of forward and backward, and outputs and gradients."""
    inputs = [x.detach().requires_grad_(i in case.learns) for i, x in enumerate(made)]
    if case.moves:
        inputs = [x.clone() for x in inputs]
    _wait(made[0].device)
    start = time.perf_counter()
    out = function(inputs, shape)
    if case.learns:
        torch.autograd.backward(list(out), [pull.to(each.dtype) for pull, each in zip(pulls, out, strict=True)])
    _wait(made[0].device)
    seconds = time.perf_counter() - start
    return seconds, [*(each.detach() for each in out), *(inputs[i].grad for i in case.learns)]


def _wait(device: torch.device) -> None:
    if device.type != 'cpu':
        torch.accelerator.synchronize()


def _error(found: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    return float((found.cpu().double() - truth).norm() / truth.norm().clamp_min(1e-30))
