"""The Triton kernels: on a GPU as they are, without one in Triton's interpreter, against float64; and compiled.

The interpreter cuts fp32 to bf16 instead of rounding, so bf16 is given one unit; fp16 it rounds.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
if DEVICE == 'cpu':
    os.environ['TRITON_INTERPRET'] = '1'
triton = pytest.importorskip('triton')
if DEVICE == 'cpu' and np.lib.NumpyVersion(np.__version__) >= '2.4.0' and triton.__version__ < '3.7':
    pytest.skip('the interpreter of Triton before 3.7 needs numpy < 2.4', allow_module_level=True)

from swift.kernels import gated, norm, rotary, triton_rows  # noqa: E402
from swift.kernels.logprobs import plain_rows  # noqa: E402

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.7e-2}
DTYPES = list(TOLERANCE)
EPS = 1e-6


def numbers(*shape, dtype=torch.float32, seed=0, scale=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(DEVICE, dtype)


def close(found, expected, tolerance, size=None):
    """Errors are held against ``size``, the terms of a sum, where they may cancel."""
    size = expected.abs() if size is None else size.amax(-1, keepdim=True)
    assert ((found.double() - expected).abs() <= tolerance * (expected.abs() + size) + 1e-6).all()


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(1, 1), (5, 1), (1, 8192), (3, 577), (700, 8), (0, 16)])
@pytest.mark.parametrize(('offset', 'early'), [(0.0, True), (0.0, False), (1.0, False)])
def test_rms_norm_equals_float64(shape, dtype, offset, early):
    x, weight, pull = (numbers(*s, dtype=dtype, seed=i) for i, s in enumerate((shape, shape[1:], shape)))
    y, rstd, grad_x = torch.empty_like(x), torch.empty(shape[0], device=DEVICE), torch.empty_like(x)
    triton_rows.rms_norm(x, None, weight, None, y, rstd, EPS, offset, early)
    grad_weight = triton_rows.rms_norm_backward(pull, None, x, weight, rstd, grad_x, offset, early, True)

    wide, gain = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = norm.plain(wide, gain, EPS, offset=offset, early=False)
    expected.backward(pull.double())
    tolerance = TOLERANCE[dtype]
    close(y, expected, tolerance)
    close(grad_x, wide.grad, tolerance, (pull * (offset + weight)).abs().double() * rstd[:, None])
    close(grad_weight, gain.grad, tolerance, (pull * x * rstd[:, None]).abs().double().sum(0))


def test_rms_norm_rounds_where_the_plain_operations_round():
    x, weight = numbers(64, 576, dtype=torch.float16), numbers(576, dtype=torch.float16, seed=1)
    y, rstd = torch.empty_like(x), torch.empty(64, device=DEVICE)
    for early in (True, False):
        triton_rows.rms_norm(x, None, weight, None, y, rstd, EPS, 0.0, early)
        assert (y != norm.plain(x, weight, EPS, early=early)).float().mean() < 0.01
        assert (y != norm.plain(x, weight, EPS, early=not early)).float().mean() > 0.1


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(1, 1), (1, 8192), (3, 577), (0, 16)])
def test_a_residual_sum_and_its_norm_are_the_two_one_after_the_other(shape, dtype):
    x, delta, pull, direct = (numbers(*shape, dtype=dtype, seed=i) for i in range(4))
    weight, (total, y, grad) = numbers(shape[1], dtype=dtype, seed=4), (torch.empty_like(x) for _ in range(3))
    rstd = torch.empty(shape[0], device=DEVICE)
    triton_rows.rms_norm(x, delta, weight, total, y, rstd, EPS, 0.0, True)
    grad_weight = triton_rows.rms_norm_backward(pull, direct, total, weight, rstd, grad, 0.0, True, True)

    close(total, x.double() + delta.double(), TOLERANCE[dtype])
    after, slope, other = torch.empty_like(x), torch.empty_like(x), torch.empty_like(rstd)
    triton_rows.rms_norm(total, None, weight, None, after, other, EPS, 0.0, True)
    alone = triton_rows.rms_norm_backward(pull, None, total, weight, rstd, slope, 0.0, True, True)
    assert torch.equal(y, after) and torch.equal(rstd, other) and torch.equal(grad_weight, alone)
    close(grad, slope.double() + direct.double(), TOLERANCE[dtype])


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(1, 1), (1, 8192), (3, 577), (0, 16)])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('act', gated.PLAIN)
def test_gated_activations_equal_float64(shape, dtype, packed, act):
    both = numbers(shape[0], 2 * shape[1], dtype=dtype, scale=4)
    gate, up = both.chunk(2, -1)
    if not packed:
        gate, up = gate.contiguous(), up.contiguous()
    pull, y, out = numbers(*shape, dtype=dtype, seed=1), torch.empty(shape, dtype=dtype, device=DEVICE), both.clone()
    triton_rows.gated(gate, up, y, gated.NUMBER[act])
    first, second = out.chunk(2, -1) if packed else out.view(2, *shape).unbind()
    triton_rows.gated_backward(pull, gate, up, first, second, gated.NUMBER[act])

    wide, other = gate.double().requires_grad_(), up.double().requires_grad_()
    expected = gated.PLAIN[act](wide) * other
    expected.backward(pull.double())
    for found, value in ((y, expected), (first, wide.grad), (second, other.grad)):
        close(found, value, TOLERANCE[dtype], None if value.numel() else value)


@pytest.mark.parametrize('act', gated.PLAIN)
def test_huge_gates_are_open_or_shut(act):
    gate = torch.tensor([[-3e38, -1e20, 1e20, 3e38]], device=DEVICE)
    up, y, slope, other = torch.ones_like(gate), *(torch.empty_like(gate) for _ in range(3))
    triton_rows.gated(gate, up, y, gated.NUMBER[act])
    triton_rows.gated_backward(up, gate, up, slope, other, gated.NUMBER[act])
    torch.testing.assert_close(y, torch.relu(gate))
    assert slope.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('adjacent', [False, True])
@pytest.mark.parametrize('back', [False, True])
@pytest.mark.parametrize('shape', [(1, 1, 1, 2, 2), (2, 3, 5, 24, 6), (1, 9, 7, 64, 64), (1, 2, 0, 8, 8)])
def test_rotary_turns_forth_and_back_as_the_plain_operations(shape, adjacent, back, dtype):
    batch, heads, tokens, width, turned = shape
    x = numbers(batch, tokens, heads, width, dtype=dtype).transpose(1, 2)
    cos, sin = numbers(2, batch, tokens, turned, seed=1).unbind()
    y = torch.empty(batch, tokens, heads, width, dtype=dtype, device=DEVICE).transpose(1, 2)
    triton_rows.rotary(x, cos, sin, y, adjacent, back)
    wide = x.double().requires_grad_()
    expected = rotary.plain(wide, cos, sin, adjacent=adjacent)
    if back:
        (expected,) = torch.autograd.grad(expected, wide, x.double())
    torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 4)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('vocabulary', [1, 97, 4097, 10001])
def test_log_probs_of_rows_and_their_gradient_equal_float64(vocabulary, dtype):
    z = numbers(6, vocabulary, dtype=dtype, scale=5)
    targets = torch.arange(6, device=DEVICE) * 7919 % vocabulary
    z[1, targets[1]] = 60.0  # sure of it
    z[2] = 0.0  # all alike: the first is the most likely
    expected = plain_rows(truth := z.double(), targets, gradient=True)
    made = torch.empty(3, 6, device=DEVICE)
    correct = torch.empty(6, dtype=torch.bool, device=DEVICE)
    before = z.clone()
    triton_rows.logprob_rows(z, targets, *made, correct, False)
    assert torch.equal(z, before)
    triton_rows.logprob_rows(z, targets, *made, correct, True)
    for found, value in zip(made, expected, strict=False):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct, expected[3])
    torch.testing.assert_close(z.double(), truth, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 100)


def test_a_bad_logit_poisons_its_own_row():
    z = numbers(3, 5000)
    z[1, 4500] = float('nan')
    made, correct = torch.empty(3, 3, device=DEVICE), torch.empty(3, dtype=torch.bool, device=DEVICE)
    triton_rows.logprob_rows(z, torch.zeros(3, dtype=torch.int64, device=DEVICE), *made, correct, True)
    assert made.isnan().tolist() == [[False, True, False]] * 3
    assert z.isnan().all(1).tolist() == z.isnan().any(1).tolist() == [False, True, False]


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from swift.kernels import triton_rows

tile, pointers = {'HIGH': 4, 'WIDE': 1024}, {'targets': '*i64', 'correct': '*i1', 'eps': 'fp32', 'offset': 'fp32'}
pointers |= dict.fromkeys('x y z delta total direct weight grad grad_x gate up grad_gate grad_up'.split(), '*bf16')
pointers |= dict.fromkeys('rstd partial cos sin logps lse entropy'.split(), '*fp32')
turn = {'back': True, 'HEADS': 16, 'HALF': 32, 'REST': 64}
for name, constants in [
    *(('_rms_norm', {'summed': summed, 'early': True, **tile}) for summed in (True, False)),
    *(('_rms_norm_backward', {'summed': summed, 'early': True, 'weighed': True, **tile}) for summed in (True, False)),
    *(('_gated', {'act': act, 'SPAN': 1024}) for act in range(3)),
    *(('_gated_backward', {'act': act, 'SPAN': 1024}) for act in range(3)),
    *(('_rotary', {'adjacent': adjacent, **turn}) for adjacent in (True, False)),
    ('_logprob_rows', {'gradient': True, 'STRIP': 4096}),
]:
    kernel = getattr(triton_rows, name)
    signature = {each: 'constexpr' if each in constants else pointers.get(each, 'i32') for each in kernel.arg_names}
    places = {(kernel.arg_names.index(each),): value for each, value in constants.items()}
    made = triton.compile(ASTSource(kernel, signature, places), target=GPUTarget('cuda', 90, 32))
    assert '.target sm_90' in made.asm['ptx'], name
"""


def test_kernels_compile_for_hopper_without_one(tmp_path):
    """What the interpreter forgives, the compiler may not."""
    settings = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    settings |= {'TRITON_CACHE_DIR': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', COMPILE], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
