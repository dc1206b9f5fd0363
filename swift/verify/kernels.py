"""Every kernel against its plain twin: outputs and gradients, on the shapes of ``kernels.check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.kernels.check import Case
from swift.verify.finding import Finding

PART = 'kernel'
PLACE = 'swift/kernels/check.py'
ALLOWED = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
"""Norm of the difference over the norm of the plain one's."""


def check(case: Case) -> Iterator[Finding]:
    """What is found of a kernel, for each shape and type."""
    for shape, made in case.shapes.items():
        inputs = case.make(made)
        fast, plain = (computed(compute, inputs) for compute in (case.fast, case.plain))
        far = [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(fast, plain, strict=True)]
        shown = {'part': PART, 'name': f'{case.name}: {shape}', 'allowed': ALLOWED[inputs[0].dtype], 'place': PLACE}
        yield Finding(what='output', difference=far[0], **shown)
        if len(far) > 1:
            yield Finding(what='gradient', difference=float(np.max(far[1:])), **shown)


def computed(compute: Callable[..., Tensor], inputs: tuple[Any, ...]) -> list[Tensor]:
    """The output, then the gradient of each input that has one."""
    learn = [each for each in inputs if isinstance(each, Tensor) and each.requires_grad]
    out = compute(*inputs)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *(torch.autograd.grad(out, learn, pull) if learn else ())]
