"""Fused adapters against the plain formula, and dropout that is computed twice instead of kept."""

import pytest
import torch

from swift.kernels.dropout import dropout_, new_seed, plain_dropout_
from swift.kernels.lora import Member, lora_group, plain_group


def members(dtype, outputs, *, width=20, rank=3, bias=True):
    made = []
    for i, out in enumerate(outputs):
        torch.manual_seed(i)
        weight = torch.randn(out, width).to(dtype)
        a, b = torch.randn(rank + i, width).to(dtype), torch.randn(out, rank + i).to(dtype)
        offset = torch.randn(out).to(dtype) if bias and i % 2 == 0 else None
        made.append(Member(lambda weight=weight: weight, offset, a.requires_grad_(), b.requires_grad_(), 0.5 + i))
    return made


def gradients(run, x, group):
    out = run(x, group)
    pulls = [torch.sin(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).to(y.dtype) for y in out]
    leaves = [x, *(each for member in group for each in (member.a, member.b))]
    return out, torch.autograd.grad(out, leaves, pulls)


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize('shape', [(1, 20), (1, 7, 20), (2, 3, 20)])
@pytest.mark.parametrize('outputs', [(5,), (8, 3, 3), (1, 33)])
def test_a_group_equals_its_members_one_by_one(dtype, tolerance, shape, outputs):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(dtype).requires_grad_()
    group = members(dtype, outputs)
    found, expected = gradients(lora_group, x, group), gradients(plain_group, x, group)
    for ours, plain in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
        assert float((ours - plain).double().norm()) <= tolerance * float(plain.double().norm())


def test_dropout_hides_the_same_numbers_in_both_directions():
    p, x = 0.4, torch.randn(50, 20, dtype=torch.float64).requires_grad_()
    group = members(torch.float64, (8, 3), bias=False)
    torch.manual_seed(5)
    found, ours = gradients(lambda x, group: lora_group(x, group, dropout=p), x, group)
    torch.manual_seed(5)
    mask = dropout_(torch.ones_like(x), torch.empty_like(x), new_seed(), p).detach()

    def plain(x, group):
        return tuple(x @ m.weight().T + (x * mask) @ m.a.T @ m.b.T * m.scale for m in group)

    expected, reference = gradients(plain, x, group)
    for a, b in zip((*found, *ours), (*expected, *reference), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('p', [0.0, 0.05, 0.5, 0.999])
def test_dropout_in_c_equals_torch_and_keeps_the_mean(dtype, p):
    x, seed = torch.ones(300, 400).to(dtype), new_seed()
    found, plain = torch.empty_like(x), torch.empty_like(x)
    dropout_(x, found, seed, p)
    plain_dropout_(x, plain, seed, p, add=False)
    torch.testing.assert_close(found, plain)
    kept = float((found != 0).float().mean())
    assert abs(kept - (1 - p)) < 4 * (p * (1 - p) / x.numel()) ** 0.5 + 1e-9
    again = torch.empty_like(x)
    assert not torch.equal(dropout_(x, again, new_seed(), p), found) or p == 0.0
    torch.testing.assert_close(dropout_(x, found.clone(), seed, p, add=True), 2 * found)
