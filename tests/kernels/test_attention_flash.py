"""The C++ attention against a dense mask in float64, on shapes that break kernels."""

import pytest
import torch

from swift.core.types import Segments
from swift.kernels import attention, compiled, flash, segmentwise
from swift.kernels.segmentwise import Rules
from tests.kernels import dense

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=str(compiled.missing()))

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}
DTYPES = list(TOLERANCE)
SHAPES = [  # lengths, heads, key heads, width
    ((1,), 1, 1, 8),
    ((64,), 1, 1, 32),
    ((1, 1, 1), 3, 3, 64),
    ((5, 1, 130, 64, 65), 6, 2, 64),
    ((300,), 3, 1, 80),
    ((63, 129), 7, 7, 40),
    ((40, 1, 90, 3), 9, 3, 256),
    ((17, 33), 5, 1, 33),
    ((3,) * 50, 2, 1, 16),
    ((128, 97), 8, 2, 96),
]


def of(q, k, v, segments, **rules):
    return flash.attend(q, k, v, segments, scale=0.2, **rules)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(('lengths', 'heads', 'key_heads', 'width'), SHAPES)
def test_output_and_gradients_are_those_of_a_dense_mask(lengths, heads, key_heads, width, dtype):
    segments = Segments(lengths)
    q, k, v, grad = dense.inputs(segments, heads, key_heads, width, dtype)
    expected = dense.attention(q, k, v, segments, scale=0.2)
    dense.compare(of(q, k, v, segments), expected, (q, k, v), grad, TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('window', [1, 20, 64, 100])
def test_a_window_hides_what_is_further_back(window, dtype):
    segments = Segments((150, 77))
    q, k, v, grad = dense.inputs(segments, 4, 2, 32, dtype)
    expected = dense.attention(q, k, v, segments, scale=0.2, window=window)
    dense.compare(of(q, k, v, segments, window=window), expected, (q, k, v), grad, TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('cap', [0.5, 30.0, None])
def test_capped_logits_and_sinks_have_their_gradients(cap, dtype):
    segments = Segments((70, 9))
    q, k, v, grad = dense.inputs(segments, 4, 2, 32, dtype)
    sinks = torch.tensor([0.0, 2.0, -3.0, 7.0], requires_grad=True)
    expected = dense.attention(q, k, v, segments, scale=0.2, cap=cap, sinks=sinks)
    found = of(q, k, v, segments, cap=cap, sinks=sinks)
    dense.compare(found, expected, (q, k, v, sinks), grad, TOLERANCE[dtype])


def test_bf16_without_matrix_tiles_is_the_same_to_rounding(monkeypatch):
    monkeypatch.setattr(flash, 'TILES', False)
    segments = Segments((5, 130, 64))
    q, k, v, grad = dense.inputs(segments, 6, 2, 64, torch.bfloat16)
    expected = dense.attention(q, k, v, segments, scale=0.2)
    dense.compare(of(q, k, v, segments), expected, (q, k, v), grad, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize('dtype', DTYPES)
def test_threads_change_no_bit(dtype):
    segments = Segments((700, 3, 90), (-1, -1, 1))  # one thread takes sequences whole, eight cut the long one up
    q, k, v, grad = dense.inputs(segments, 2, 1, 32, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 8, 8, 3):
            torch.set_num_threads(threads)
            out = of(q, k, v, segments, window=500)
            results.append([out, *torch.autograd.grad(out, (q, k, v), grad)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_heads_may_lie_in_one_tensor_or_head_by_head():
    segments = Segments((30, 40))
    joint = torch.randn(1, 70, 8, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    split = lambda x: (each.transpose(1, 2) for each in x.split((4, 2, 2), 2))
    q, k, v = split(joint)
    one = of(q, k, v, segments)
    two = of(q.contiguous(), k.contiguous(), v.contiguous(), segments)
    assert torch.equal(one, two)
    grads = [torch.autograd.grad(each.square().sum(), joint)[0] for each in (one, two)]
    assert torch.equal(*grads)


def test_large_scores_do_not_overflow_and_nan_stays_in_its_sequence():
    segments = Segments((20, 30))
    q, k, v, grad = dense.inputs(segments, 2, 2, 16, torch.float32)
    big = [(100 * each).detach().requires_grad_() for each in (q, k)]
    found = flash.attend(*big, v, segments, scale=1.0)
    torch.testing.assert_close(found.double(), dense.attention(*big, v, segments, scale=1.0), rtol=1e-4, atol=1e-4)
    assert all(each.isfinite().all() for each in torch.autograd.grad(found, (*big, v), grad))
    with torch.no_grad():
        k[0, 1, 3] = float('nan')
        out = of(q, k, v, segments)
    assert out[0, 3:20, 1].isnan().all()
    assert out[0, :3].isfinite().all() and out[0, 20:].isfinite().all() and out[0, :, 0].isfinite().all()


def test_gradients_pass_through_checkpoints_and_compilation():
    from torch.utils.checkpoint import checkpoint

    segments = Segments((9, 70))
    q, k, v, grad = dense.inputs(segments, 4, 2, 16, torch.float32)
    step = lambda *x: of(*x, segments).sin()
    plain = [step(q, k, v), *torch.autograd.grad(step(q, k, v), (q, k, v), grad)]
    again = checkpoint(step, q, k, v, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(plain[1:], torch.autograd.grad(again, (q, k, v), grad), strict=True))
    fast = torch.compile(step, backend='aot_eager', fullgraph=True)(q, k, v)
    assert all(torch.equal(a, b) for a, b in zip(plain[1:], torch.autograd.grad(fast, (q, k, v), grad), strict=True))


def test_the_operators_keep_the_rules_of_torch():
    segments = Segments((9, 7), (-1, 0))
    q, k, v, grad = (x.detach() for x in dense.inputs(segments, 4, 2, 16, torch.float32))
    table = torch.tensor([(0, 9), (9, 7), (-1, 0)])
    out, lse = torch.ops.swift.attention(q, k, v, table, None, 0.2, 0.0, 0)
    check = lambda op, *args: torch.library.opcheck(op, args, test_utils=('test_schema', 'test_faketensor'))
    check(torch.ops.swift.attention.default, q, k, v, table, None, 0.2, 0.0, 0)
    check(torch.ops.swift.attention_backward.default, grad, q, k, v, out, lse, table, 0.2, 0.0, 0)


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_interface_agrees_with_its_plain_twin_under_every_rule(dtype):
    segments = Segments((31, 31, 31, 5, 12))
    q, k, v, grad = dense.inputs(segments, 4, 2, 16, dtype)
    options = ({}, {'sliding_window': 7}, {'softcap': 5.0}, {'is_causal': False}, {'s_aux': torch.ones(4)})
    for option in options:
        call = lambda fast, option=option: attention.packed_attention(
            torch.nn.Module(), q, k, v, None, segments=segments, fast=fast, **option
        )[0]
        fast, plain = call(True), call(False)
        assert fast.shape == plain.shape == (1, 110, 4, 16)
        dense.compare(fast, plain.double(), (q, k, v), grad, 2 * TOLERANCE[dtype])


def test_autocast_takes_queries_of_another_type():
    segments = Segments((31, 5))
    q, k, v, _ = dense.inputs(segments, 4, 2, 16, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        out, _ = attention.packed_attention(torch.nn.Module(), q, k, v.bfloat16(), None, segments=segments)
    assert out.dtype == torch.bfloat16


def test_what_the_kernel_does_not_take_goes_to_the_plain_path():
    segments, rules = Segments((5, 4)), Rules(scale=0.2)
    choose = lambda width, dtype, rules=rules: attention._choose(
        *dense.inputs(segments, 4, 2, width, dtype)[:3], segments, rules
    )
    assert choose(64, torch.float32) is attention._flash
    assert choose(512, torch.float32) is segmentwise.attend
    assert choose(64, torch.float64) is segmentwise.attend
    assert choose(64, torch.float32, Rules(scale=0.2, dropout=0.1)) is segmentwise.attend
    assert choose(64, torch.float32, Rules(scale=0.2, causal=False)) is segmentwise.attend
