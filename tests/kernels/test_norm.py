"""RMSNorm against float64, in shapes and with numbers that hurt."""

import pytest
import torch

from swift.kernels import compiled, device, norm

EPS = 1e-6
SHAPES = [(1, 1), (5, 1), (1, 8192), (3, 577), (65, 64), (2, 40, 33), (700, 8), (0, 16)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}
WAYS = [(0.0, True), (0.0, False), (1.0, False)]


def data(shape, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    x, pull = (torch.randn(shape, generator=generator) for _ in range(2))
    weight = torch.randn(shape[-1], generator=generator)
    return (x * scale).to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), pull.to(dtype)


def in_float64(x, weight, pull, offset):
    x, weight = (each.detach().double().requires_grad_() for each in (x, weight))
    y = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * (offset + weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), pull.double())


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('scale', [1e-4, 1.0, 1e15])
@pytest.mark.parametrize(('offset', 'early'), WAYS)
def test_values_and_gradients_equal_float64(shape, dtype, scale, offset, early):
    x, weight, pull = data(shape, dtype, scale)
    y = norm.rms_norm(x, weight, EPS, offset=offset, early=early)
    found = y, *torch.autograd.grad(y, (x, weight), pull)
    expected = in_float64(x, weight, pull, offset)
    # gradients are sums whose terms may cancel: errors are held against the terms
    rstd = (x.detach().double().square().mean(-1, keepdim=True) + EPS).rsqrt()
    leading = tuple(range(len(shape) - 1))
    sizes = expected[0].abs(), (pull * (offset + weight)).abs() * rstd, (pull * x * rstd).abs().sum(leading)
    for each, wanted, size in zip(found, expected, sizes, strict=True):
        assert each.dtype == dtype and each.shape == wanted.shape
        assert ((each.double() - wanted).abs() <= TOLERANCE[dtype] * (wanted.abs() + size.amax(-1, keepdim=True))).all()


@pytest.mark.skipif(compiled.missing() is not None, reason='no C++ kernels here')
@pytest.mark.parametrize(('offset', 'early'), WAYS)
def test_the_kernel_rounds_where_the_plain_operations_round(offset, early):
    x, weight, _ = data((64, 576), torch.bfloat16)
    assert device.fused(x, weight)
    fused = norm.rms_norm(x, weight, EPS, offset=offset, early=early)
    plain = norm.plain(x, weight, EPS, offset=offset, early=early)
    other = norm.plain(x, weight, EPS, offset=offset, early=not early)
    assert (fused != plain).float().mean() < 1e-3 < 0.1 < (other != plain).float().mean()


def test_zeros_stay_zeros_and_their_gradient_is_finite():
    x, weight, pull = data((4, 32), torch.bfloat16, 0.0)
    y = norm.rms_norm(x, weight, EPS)
    y.backward(pull)
    assert not y.any() and torch.isfinite(x.grad).all() and not weight.grad.any()


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_a_bad_number_poisons_its_own_row_and_the_weight(dtype):
    x, weight, pull = data((5, 16), dtype)
    with torch.no_grad():
        x[2, 3] = float('nan')
    y = norm.rms_norm(x, weight, EPS)
    y.backward(pull)
    bad = torch.arange(5) == 2
    assert torch.equal(y.isnan().all(1), bad) and torch.equal(y.isnan().any(1), bad)
    assert torch.equal(x.grad.isnan().any(1), bad) and weight.grad.isnan().all()


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_two_runs_and_any_number_of_threads_give_the_same_bits(dtype):
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            x, weight, pull = data((1000, 96), dtype)
            y = norm.rms_norm(x, weight, EPS)
            outcomes.append((y, *torch.autograd.grad(y, (x, weight), pull)))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


def test_views_and_expanded_gradients_are_taken():
    x, weight, _ = data((6, 10, 8), torch.float32)
    view = x.transpose(0, 1)
    norm.rms_norm(view, weight, EPS).sum().backward()
    found, x.grad, weight.grad = (x.grad, weight.grad), None, None
    norm.plain(view, weight, EPS).sum().backward()
    torch.testing.assert_close(found, (x.grad, weight.grad))


def test_a_frozen_weight_gets_no_gradient():
    x, weight, pull = data((6, 8), torch.float32)
    norm.rms_norm(x, weight.detach(), EPS).backward(pull)
    assert x.grad is not None and weight.grad is None


def test_other_types_take_the_plain_way():
    x, weight, _ = data((6, 8), torch.float64)
    assert not device.fused(x, weight)
    assert not device.fused(x.float(), weight.bfloat16())
    torch.testing.assert_close(norm.rms_norm(x, weight, EPS, early=False), in_float64(x, weight, x.detach(), 0.0)[0])
