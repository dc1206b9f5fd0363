"""SwiGLU and GeGLU against float64, in shapes and with numbers that hurt."""

import pytest
import torch

from swift.kernels import gated

SHAPES = [(1, 1), (1, 8192), (3, 577), (2, 40, 33), (0, 16)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def data(shape, dtype, scale=1.0):
    generator = torch.Generator().manual_seed(shape[-1])
    gate, up, pull = (torch.randn(shape, generator=generator) for _ in range(3))
    return (gate * scale).to(dtype).requires_grad_(), up.to(dtype).requires_grad_(), pull.to(dtype)


def in_float64(gate, up, pull, act):
    gate, up = (each.detach().double().requires_grad_() for each in (gate, up))
    y = gated.PLAIN[act](gate) * up
    return y.detach(), *torch.autograd.grad(y, (gate, up), pull.double())


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('scale', [0.0, 1e-3, 4.0, 1e4])
@pytest.mark.parametrize('act', gated.PLAIN)
def test_values_and_gradients_equal_float64(shape, dtype, scale, act):
    gate, up, pull = data(shape, dtype, scale)
    y = gated.gated(gate, up, act)
    found = y, *torch.autograd.grad(y, (gate, up), pull)
    for each, expected in zip(found, in_float64(gate, up, pull, act), strict=True):
        assert each.dtype == dtype
        torch.testing.assert_close(each.double(), expected, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize('act', gated.PLAIN)
def test_the_far_left_tail_keeps_its_relative_precision(act):
    gate = torch.linspace(-9, 0, 1001)
    found = gated.gated(gate, torch.ones_like(gate), act)
    wide = gate.double()
    # torch's own forms of GELU lose the tail to cancellation, in float64 too
    share = {
        'silu': torch.sigmoid(wide),
        'gelu_tanh': torch.sigmoid((8 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)),
        'gelu': torch.special.erfc(-wide * 0.5**0.5) / 2,
    }
    torch.testing.assert_close(found.double(), wide * share[act], rtol=2e-5, atol=1e-37)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('act', gated.PLAIN)
def test_huge_gates_are_open_or_shut(act, dtype):
    gate = torch.tensor([-3e38, -1e20, 1e20, 3e38], dtype=dtype, requires_grad=True)
    y = gated.gated(gate, torch.ones_like(gate), act)
    y.sum().backward()
    torch.testing.assert_close(y, torch.relu(gate))
    assert gate.grad.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('act', gated.PLAIN)
def test_a_bad_number_poisons_itself_only(act, dtype):
    gate, up, pull = data((3, 40), dtype)
    with torch.no_grad():
        gate[1, 5], up[2, 7] = float('nan'), float('nan')
    y = gated.gated(gate, up, act)
    y.backward(pull)
    bad = gate.isnan() | up.isnan()
    assert torch.equal(y.isnan(), bad)
    assert torch.equal(gate.grad.isnan(), bad) and torch.equal(up.grad.isnan(), gate.isnan())


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', [(1, 2), (2, 40, 66)])
def test_a_packed_projection_is_read_and_its_gradient_written_in_place(shape, dtype):
    both, _, _ = data(shape, dtype)
    pull = data((*shape[:-1], shape[-1] // 2), dtype)[2]
    y = gated.gated_packed(both, 'silu')
    y.backward(pull)
    gate, up = (half.detach().clone().requires_grad_() for half in both.chunk(2, -1))
    apart = gated.gated(gate, up, 'silu')
    apart.backward(pull)
    assert torch.equal(y, apart)
    assert torch.equal(both.grad, torch.cat([gate.grad, up.grad], -1))


def test_halves_of_a_wider_tensor_and_an_expanded_gradient_are_taken():
    both, _, _ = data((2, 40, 66), torch.float32)
    gated.gated(*both.split(33, -1), 'gelu').sum().backward()
    found, both.grad = both.grad, None
    gate, up = both.split(33, -1)
    (torch.nn.functional.gelu(gate) * up).sum().backward()
    torch.testing.assert_close(found, both.grad)


@pytest.mark.parametrize('act', gated.PLAIN)
def test_other_types_take_the_plain_way(act):
    gate, up, pull = data((3, 8), torch.float64)
    torch.testing.assert_close(gated.gated(gate, up, act), in_float64(gate, up, pull, act)[0])
    packed = torch.cat([gate, up], -1)
    torch.testing.assert_close(gated.gated_packed(packed, act), in_float64(gate, up, pull, act)[0])
