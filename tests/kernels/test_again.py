"""Results that are made again: the same gradients to the last bit, and memory that is let go."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from swift.kernels import again
from swift.kernels.gated import gated, gated_packed
from swift.kernels.norm import rms_norm


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(x, weight, layers, results=None):
    """A norm that three layers read, a gate of two of them, a layer on the gate."""
    y = rms_norm(x, weight, 1e-6)
    gate, up, rest = (F.linear(y, each) for each in layers[:3])
    inner = gated(gate, up)
    if results is not None:
        results += [weakref.ref(y), weakref.ref(inner)]
    return F.linear(inner, layers[3]) + rest


def leaves(dtype):
    x, weight = numbers(1, 5, 16, dtype=dtype), numbers(16, seed=1, dtype=dtype)
    shapes = ((24, 16), (24, 16), (16, 16), (16, 24))
    layers = [numbers(*shape, seed=2 + i, dtype=dtype) for i, shape in enumerate(shapes)]
    return [each.requires_grad_() for each in (x, weight, *layers)]


def gradients(dtype, light, times=1):
    x, weight, *layers = made = leaves(dtype)
    results = []
    with again.light() if light else torch.enable_grad():
        out = layer(x, weight, layers, results)
    alive = [each() is not None for each in results]
    for _ in range(times):
        out.square().sum().backward(retain_graph=times > 1)
    return [each.grad for each in made], alive


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('times', [1, 2])
def test_gradients_are_the_same_bits(dtype, times):
    expected, _ = gradients(dtype, light=False, times=times)
    found, _ = gradients(dtype, light=True, times=times)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_results_are_let_go_when_the_layer_is_done():
    assert gradients(torch.float32, light=True)[1] == [False, False]


def test_a_packed_gate_is_made_again_too():
    x, weight = numbers(3, 8).requires_grad_(), numbers(4, 4, seed=1).requires_grad_()
    found = []
    for light in (False, True):
        x.grad = weight.grad = None
        with again.light() if light else torch.enable_grad():
            out = F.linear(gated_packed(x), weight)
        out.sum().backward()
        found.append((x.grad, weight.grad))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_result_that_was_changed_in_place_is_kept():
    x, norm, weight = numbers(4, 8).requires_grad_(), numbers(8, seed=1), numbers(6, 8, seed=2).requires_grad_()
    with again.light():
        y = rms_norm(x, norm, 1e-6)
        y = y.mul_(2.0)
        out = F.linear(y, weight)
    out.sum().backward()
    torch.testing.assert_close(weight.grad, (2 * rms_norm(x, norm, 1e-6)).sum(0).expand_as(weight))


def test_memory_that_became_another_tensor_is_not_taken_for_the_result():
    x, norm, weight = numbers(64, 64).requires_grad_(), numbers(64, seed=1), numbers(6, 64, seed=2).requires_grad_()
    with again.light():
        place = rms_norm(x, norm, 1e-6).data_ptr()  # gone at once
        others = [torch.full((64, 64), float(i)) for i in range(8)]
        outs = [F.linear(each, weight) for each in others]
    assert place
    sum(out.sum() for out in outs).backward()
    assert torch.equal(weight.grad, torch.full((6, 64), 64.0 * sum(range(8))))


def test_a_part_of_a_result_is_kept_as_it_is():
    x, norm, weight = numbers(4, 8).requires_grad_(), numbers(8, seed=1), numbers(6, 8, seed=2).requires_grad_()
    with again.light():
        out = F.linear(rms_norm(x, norm, 1e-6)[:2], weight)
    out.sum().backward()
    torch.testing.assert_close(weight.grad, rms_norm(x, norm, 1e-6)[:2].sum(0).expand_as(weight))


def test_outside_nothing_is_noted():
    made = numbers(2, 2).requires_grad_() * 1
    assert again.note(made, lambda: made) is made
    with again.light(), torch.no_grad():
        pass
    assert again._noted.get() is None
