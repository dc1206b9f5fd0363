"""Every kernel beside its plain twin, on the shapes that are timed."""

import pytest
import torch

from swift.kernels.check import CASES

TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
ROWS = [
    pytest.param(case, shape, id=f'{name}: {which}')
    for name, case in CASES.items()
    for which, shape in case.shapes.items()
]


@pytest.mark.parametrize(('case', 'shape'), ROWS)
def test_a_kernel_computes_what_its_plain_twin_does(case, shape):
    found, expected = ((*_with_gradients(compute, case.make(shape)),) for compute in (case.fast, case.plain))
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b.double()).norm() <= TOLERANCE[a.dtype] * b.double().norm()


def _with_gradients(compute, inputs):
    out = compute(*inputs)
    learn = [each for each in inputs if isinstance(each, torch.Tensor) and each.requires_grad]
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    yield out.detach()
    yield from torch.autograd.grad(out, learn, grad)
