"""Rotary positions against complex multiplication in float64."""

import pytest
import torch

from swift.kernels import device, rotary

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
SHAPES = [(1, 1, 1, 1, 2, 2), (1, 9, 3, 17, 64, 64), (2, 3, 1, 5, 24, 6), (1, 1, 1, 700, 256, 64)]
"""batch, query heads, key heads, tokens, head width, numbers that turn"""


def data(shape, dtype, adjacent, rows=None):
    batch, heads, keys, tokens, width, turned = shape
    generator = torch.Generator().manual_seed(width + tokens)
    # as projections give it: [B, T, H, D] in memory
    q = torch.randn(batch, tokens, heads, width, generator=generator).to(dtype).requires_grad_()
    k = torch.randn(batch, tokens, keys, width, generator=generator).to(dtype).requires_grad_()
    angles = torch.randn(rows or batch, tokens, turned // 2, generator=generator, dtype=torch.float64) * 100
    full = angles.repeat_interleave(2, -1) if adjacent else torch.cat([angles, angles], -1)
    return q, k, angles, full


def in_float64(x, angles, adjacent):
    """Pairs are complex numbers, times e^(i angle)."""
    x = x.detach().double().transpose(1, 2)
    turned = 2 * angles.shape[-1]
    head, rest = x[..., :turned], x[..., turned:]
    pairs = head.unflatten(-1, (-1, 2)) if adjacent else head.unflatten(-1, (2, -1)).transpose(-1, -2)
    wheel = torch.polar(torch.ones_like(angles), angles)[:, None]
    spun = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * wheel)
    spun = spun.flatten(-2) if adjacent else spun.transpose(-1, -2).flatten(-2)
    return torch.cat([spun, rest], -1)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('adjacent', [False, True])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('shared', [False, True])
def test_values_equal_complex_products_and_gradients_turn_back(shape, adjacent, dtype, shared):
    q, k, angles, full = data(shape, dtype, adjacent, rows=1 if shared else None)
    cos, sin = full.cos().float(), full.sin().float()
    found = rotary.rotary(q.transpose(1, 2), k.transpose(1, 2), cos, sin, adjacent=adjacent)
    for each, x in zip(found, (q, k), strict=True):
        assert each.dtype == dtype
        torch.testing.assert_close(each.double(), in_float64(x, angles, adjacent), rtol=TOLERANCE[dtype], atol=1e-6)
        pull = torch.randn(each.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        (gradient,) = torch.autograd.grad(each, x, pull)
        back = in_float64(pull.transpose(1, 2), -angles, adjacent).transpose(1, 2)
        torch.testing.assert_close(gradient.double(), back, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize('adjacent', [False, True])
def test_angles_of_the_heads_own_type_and_unlike_halves_equal_the_plain_way(adjacent):
    q, k, _, _ = data((1, 3, 1, 40, 32, 32), torch.bfloat16, adjacent)
    cos, sin = torch.randn(2, 1, 40, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    for fused, x in zip(rotary.rotary(q, k, cos, sin, adjacent=adjacent), (q, k), strict=True):
        expected = rotary.plain(x, cos, sin, adjacent=adjacent)
        torch.testing.assert_close(fused, expected)
        pull = torch.randn(x.shape).bfloat16()
        torch.testing.assert_close(*(torch.autograd.grad(each, x, pull)[0] for each in (fused, expected)))


def test_contiguous_heads_and_expanded_gradients_are_taken():
    x = torch.randn(2, 3, 5, 8, requires_grad=True)
    cos, sin = torch.randn(2, 1, 5, 8)
    y, _ = rotary.rotary(x, x, cos, sin)
    torch.testing.assert_close(y, rotary.plain(x, cos, sin))
    y.sum().backward()
    found, x.grad = x.grad, None
    rotary.plain(x, cos, sin).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_no_tokens_are_taken():
    x, cos = torch.randn(1, 2, 0, 8), torch.randn(1, 0, 8)
    assert rotary.rotary(x, x, cos, cos)[0].shape == x.shape


def test_a_bad_number_poisons_its_pair_only():
    q, k, _, full = data((1, 2, 1, 6, 8, 4), torch.bfloat16, False)
    with torch.no_grad():
        q[0, 3, 1, 0], q[0, 4, 0, 7] = float('nan'), float('inf')
    y, _ = rotary.rotary(q.transpose(1, 2), k.transpose(1, 2), full.cos().float(), full.sin().float())
    bad = torch.zeros(1, 2, 6, 8, dtype=torch.bool)
    bad[0, 1, 3, [0, 2]] = bad[0, 0, 4, 7] = True
    assert torch.equal(~y.isfinite(), bad)


def test_any_number_of_threads_gives_the_same_bits():
    q, k, _, full = data((1, 9, 3, 500, 64, 64), torch.bfloat16, False)
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outcomes.append(rotary.rotary(q.transpose(1, 2), k.transpose(1, 2), full.cos().float(), full.sin().float()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_learned_angles_and_other_types_take_the_plain_way():
    q = torch.randn(1, 2, 5, 8, dtype=torch.float64)
    cos, sin = torch.randn(2, 1, 5, 8)
    assert not rotary.takes(q, q, cos.double(), sin.double()) and not rotary.takes(q, q, cos, sin)
    cos.requires_grad_()
    assert not rotary.takes(q.float(), q.float(), cos, sin)
    rotary.rotary(q.float(), q.float(), cos, sin)[0].sum().backward()
    assert cos.grad is not None
    assert device.missing('cpu') is not None or rotary.takes(q.float(), q.float(), cos.detach(), sin)
