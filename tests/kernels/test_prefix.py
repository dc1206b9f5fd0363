"""Sequences that share a prefix: exact against a dense mask, forward and backward, in every implementation."""

import pytest
import torch

from swift.core.types import Segments
from swift.kernels import attention, compiled, flash, prefix, segmentwise
from swift.kernels.segmentwise import Rules
from tests import tiny
from tests.kernels import dense

TREES = {
    'two suffixes': Segments((20, 7, 9), (-1, 0, 0)),
    'length one': Segments((1, 1, 5, 1), (-1, 0, 0, 0)),
    'beside plain ones': Segments((6, 70, 30, 100, 1, 66, 4), (-1, -1, 1, 1, 1, -1, -1)),
    'apart from their prefix': Segments((30, 8, 5, 12, 6), (-1, -1, 0, 1, 0)),
    'a prefix of a prefix': Segments((65, 30, 20, 64, 3), (-1, 0, 1, 1, 0)),
}
KERNELS = {
    'flash': lambda *x, scale: flash.attend(*x, scale=scale),
    'merged': lambda *x, scale: prefix.attend(*x, scale=scale),
    'plain': lambda *x, scale: segmentwise.attend(*x, Rules(scale)),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('tree', TREES)
def test_suffixes_see_their_prefix_and_themselves(tree, kernel, dtype):
    if kernel == 'flash' and (dtype == torch.float64 or compiled.missing()):
        pytest.skip('not computed by this kernel')
    segments = TREES[tree]
    for heads, key_heads in ((4, 2), (3, 3)):
        q, k, v, grad = dense.inputs(segments, heads, key_heads, 16, dtype)
        expected = dense.attention(q, k, v, segments, scale=0.3)
        found = KERNELS[kernel](q, k, v, segments, scale=0.3)
        dense.compare(found, expected, (q, k, v), grad, TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('window', [3, 25, 80])
def test_windows_count_positions_through_the_prefix(window, dtype):
    segments = TREES['a prefix of a prefix']
    q, k, v, grad = dense.inputs(segments, 4, 2, 16, dtype)
    expected = dense.attention(q, k, v, segments, scale=0.3, window=window)
    found, _ = attention.packed_attention(
        torch.nn.Module(), q, k, v, None, segments=segments, scaling=0.3, sliding_window=window
    )
    dense.compare(found, expected, (q, k, v), grad, TOLERANCE[dtype])


def test_without_a_compiler_prefixes_are_merged_and_windows_get_a_mask(monkeypatch):
    monkeypatch.setattr(flash, 'takes', lambda *_: False)
    segments = TREES['two suffixes']
    q, k, v, _ = dense.inputs(segments, 4, 2, 16, torch.float32)
    assert attention._choose(q, k, v, segments, Rules(scale=1.0)) is attention._merged
    assert attention._choose(q, k, v, segments, Rules(scale=1.0, window=4)) is segmentwise.attend
    assert attention._choose(q, k, v, Segments((36,)), Rules(scale=1.0)) is segmentwise.attend


def logits(model, segments, ids):
    spans = zip(segments.offsets, segments.lengths, strict=True)
    positions = torch.cat([torch.arange(at, at + n) for at, n in spans])
    return model(input_ids=ids[None], position_ids=positions[None], segments=segments, use_cache=False).logits[0]


@pytest.mark.parametrize('architecture', tiny.SIZES)
def test_a_model_gives_a_shared_prefix_the_gradients_of_repeated_ones(architecture):
    model = tiny.model(architecture, dtype='float64')
    assert attention.install(model, 64) is None
    assert attention.shares_prefixes(model) is None
    start, one, other = (torch.arange(n) * 31 % 400 for n in (12, 5, 1))
    shared = logits(model, Segments((12, 5, 1), (-1, 0, 0)), torch.cat([start, one, other]))
    suffixes = shared[12:]
    suffixes.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    repeated = logits(model, Segments((17, 13)), torch.cat([start, one, start, other]))
    expected = torch.cat([repeated[12:17], repeated[29:]])
    expected.square().sum().backward()
    tolerance = 1e-5 if architecture == 'gemma2' else 1e-9  # its own softmax is fp32
    torch.testing.assert_close(suffixes, expected, rtol=tolerance, atol=tolerance / 10)
    for name, p in model.named_parameters():  # the backward pass of models' norms is fp32
        assert (p.grad - gradients[name]).norm() <= 1e-5 * p.grad.norm() + 1e-6, name


def test_a_model_that_ignores_prefixes_is_found_out(monkeypatch):
    model = tiny.model()
    assert attention.install(model, 64) is None
    blind = lambda *args, segments, **options: attention.packed_attention(
        *args, segments=Segments(segments.lengths), **options
    )
    attention.AttentionInterface.register('blind', blind)
    model.set_attn_implementation('blind')
    assert 'shared and repeated prefixes differ' in attention.shares_prefixes(model)


def test_a_prefix_comes_before_what_continues_it():
    assert Segments((4, 3, 2), (-1, 0, 1)).offsets == (0, 4, 7)
    assert Segments((4, 3)).offsets == (0, 0)
    for wrong in ((0, -1), (-1, 1), (-1,)):
        with pytest.raises(ValueError, match='index of an earlier segment'):
            Segments((4, 3), wrong)


def test_the_calls_on_cuda_fit_the_operators_of_torch():
    """No GPU is needed: shapes and types go through torch's own description of its kernels."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        make = lambda tokens, heads: torch.empty(tokens, heads, 64, dtype=torch.bfloat16, device='cuda')
        starts = lambda count: torch.empty(count, dtype=torch.int32, device='cuda')
        q, k, v = make(40, 8), make(30, 2), make(30, 2)
        call = prefix.Call((25, 15), (10, 20), False, None, None, starts(3), starts(3))
        for window in (None, 8):
            out, lse = prefix.FLASH['cuda'].forward(q, k, v, call, 0.2, window)
            assert out.shape == q.shape and lse.shape == (8, 40) and lse.dtype == torch.float32
            grads = prefix.FLASH['cuda'].backward(torch.empty_like(out), q, k, v, out, lse, call, 0.2, window)
            assert [each.shape for each in grads] == [q.shape, k.shape, v.shape]
