"""Sums of products: the kernel on AMX tiles against float64, and the same answer from torch where it does not run."""

import itertools

import pytest
import torch

from swift.kernels import product as products
from swift.kernels.product import pack, packed_product, product, takes

needs_tiles = pytest.mark.skipif(not products.runs(), reason='this processor has no AMX tiles')
ROUNDING = 2**-8  # of bf16: half a unit of the last place, and sums in another order


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def error(found, expected, scale):
    return float(((found.double() - expected).abs() / (expected.abs() + scale)).max())


@pytest.fixture
def always(monkeypatch):
    """Every shape goes to the kernel."""
    monkeypatch.setattr(products, 'LEAST', 1)
    monkeypatch.setattr(products, 'BROAD', 1 << 20)
    monkeypatch.setattr(products, 'CRAWLS', (0.0, 1e9))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)


@needs_tiles
@pytest.mark.parametrize('rows', [1, 5, 16, 17, 33, 97, 130])
def test_sums_of_products_of_all_shapes_are_right(always, rows):
    for depth, columns in itertools.product((1, 8, 24, 32, 33, 40, 576), (1, 8, 16, 31, 48, 600)):
        left, right, bias = random(rows, depth), random(columns, depth, seed=1), random(columns, seed=2)
        thin, more = random(rows, 9, seed=3)[:, :8], random(8, columns, seed=4)
        found = product((left, right.t()), (thin, more), bias=bias)
        expected = left.double() @ right.double().t() + thin.double() @ more.double() + bias.double()
        assert error(found, expected, 0.05) < ROUNDING, (rows, depth, columns)
        alone = left.double() @ right.double().t()
        for packed in (pack(right.t()), pack(right.t().contiguous())):
            assert error(packed_product(left, packed), alone, 0.05) < ROUNDING, (rows, depth, columns)


@needs_tiles
def test_a_row_does_not_depend_on_the_rows_beside_it():
    left, right = random(200, 96), pack(random(96, 80, seed=1))
    whole = packed_product(left, right)
    for first, end in ((0, 1), (3, 20), (64, 199), (199, 200)):
        assert torch.equal(packed_product(left[first:end], right), whole[first:end])


@needs_tiles
def test_what_is_not_finite_stays_in_its_row_and_column(always):
    left, right = random(40, 33), random(33, 20, seed=1)
    left[7, 3], right[5, 11] = float('nan'), float('inf')
    found = product((left, right))
    bad = ~found.isfinite()
    assert bad[7].all()
    assert bad[:, 11].all()
    bad[7], bad[:, 11] = False, False
    assert not bad.any()


@needs_tiles
@pytest.mark.parametrize('threads', [2, 3, 8])
def test_threads_change_nothing(threads):
    left, right, before = random(300, 64), pack(random(64, 200, seed=1)), torch.get_num_threads()
    expected = packed_product(left, right)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(packed_product(left, right), expected)
    finally:
        torch.set_num_threads(before)


@needs_tiles
def test_the_kernel_takes_what_torch_is_slow_with(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    wide = random(576, 1)
    for rows, taken in ((64, False), (640, True), (1088, True), (2048, False)):
        assert takes([random(rows, 1)], [wide.t()]) is taken
    assert not takes([random(640, 1).float()], [wide.t().float()])
    assert not takes([random(640, 2)[:, ::2]], [wide.t()])  # rows with gaps


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_torch_multiplies_everywhere_else(dtype):
    left, right, bias = (each.to(dtype) for each in (random(5, 4), random(4, 3, seed=1), random(3, seed=2)))
    expected = bias + left @ right + left[:, :2] @ right[:2]
    found = product((left, right), (left[:, :2], right[:2]), bias=bias)
    assert float((found - expected).abs().max()) <= 4 * torch.finfo(dtype).eps * float(expected.abs().max())


@needs_tiles
def test_compiled_models_call_it(always):
    left, right = random(64, 32), random(32, 48, seed=1)
    compiled = torch.compile(lambda a, b: product((a, b)) * 2, fullgraph=True, backend='eager')
    assert torch.equal(compiled(left, right), product((left, right)) * 2)
