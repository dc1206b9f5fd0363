"""Divergence of next-token distributions against numpy in float64, TRL, autograd and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from swift.kernels import divergence, logprobs
from swift.kernels.divergence import Divergence, Named, Predictions, plain
from swift.kernels.logprobs import Head

VOCABULARY, WIDTH = 97, 24
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def near(found, expected, tolerance):
    """By norm: single numbers of 16 bits round as they like."""
    expected = torch.as_tensor(expected).double()
    scale = max(1.0, float(expected.norm()))
    assert float((found.detach().double() - expected).norm()) <= tolerance * scale


def by_hand(student, teacher, beta, temperature=1.0, top=None):
    """The definition, row by row, in numpy and float64."""
    size = min(student.shape[1], teacher.shape[1])
    out = []
    for z, t in zip(np.asarray(student, np.float64)[:, :size], np.asarray(teacher, np.float64)[:, :size], strict=True):
        named = np.argsort(-t, kind='stable')[: top or size]
        p, q = (np.exp((x[named] - x.max()) / temperature) for x in (z, t))
        p, q = p / p.sum(), q / q.sum()
        kl = lambda a, b: sum(x * (np.log(x) - np.log(y)) for x, y in zip(a, b, strict=True) if x > 0)
        m = beta * q + (1 - beta) * p
        out.append({0: kl(q, p), 1: kl(p, q)}.get(beta, beta * kl(q, m) + (1 - beta) * kl(p, m)))
    return np.asarray(out)


def logits(rows, width=VOCABULARY, seed=0, scale=3.0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.mark.parametrize('top', [None, 1, 7, 1000])
@pytest.mark.parametrize('temperature', [1.0, 0.5, 2.0])
@pytest.mark.parametrize('beta', BETAS)
def test_each_row_equals_the_definition(beta, temperature, top):
    student, teacher = logits(5), logits(5, seed=1)
    how = Divergence(beta, temperature, top)
    expected = by_hand(student, teacher, beta, temperature, top)
    near(how(Predictions(student), Predictions(teacher)), expected, 1e-12)
    near(plain(student, teacher, how), expected, 1e-12)


@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('beta', BETAS)
def test_sum_and_gradient_are_those_of_trl(beta, temperature):
    oracle = pytest.importorskip('trl.experimental.gkd').GKDTrainer.generalized_jsd_loss
    student, teacher = logits(9).float().requires_grad_(), logits(9, seed=1).float()
    found = Divergence(beta, temperature)(Predictions(student), Predictions(teacher)).sum()
    expected = oracle(student[None], teacher[None], beta=beta, temperature=temperature, reduction='sum')
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (ours,) = torch.autograd.grad(found, student)
    (theirs,) = torch.autograd.grad(expected, student)
    near(ours, theirs, 1e-5)


@pytest.mark.parametrize('top', [None, 4])
@pytest.mark.parametrize('beta', BETAS)
def test_gradients_agree_with_finite_differences(beta, top):
    torch.manual_seed(3)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((3, 4), (11, 4), (11,))
    )
    teacher = Predictions(logits(3, 11))
    how = Divergence(beta, 0.8, top)
    loss = lambda h, w, b: how(Predictions(h, Head(w, b, scale=0.7, cap=6.0)), teacher)
    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


@pytest.mark.parametrize('rows', [0, 65])
@pytest.mark.parametrize('form', [{}, {'scale': 2.0, 'cap': 3.0}], ids=str)
@pytest.mark.parametrize('trained', ['frozen', 'kept', 'computed again'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(('beta', 'top'), [(0.5, None), (0.0, 5), (1.0, None)])
def test_from_hidden_states_everything_equals_float64_autograd(
    rows, form, trained, dtype, tolerance, beta, top, monkeypatch
):
    monkeypatch.setattr(logprobs, 'CHUNK', {'cpu': 64 * VOCABULARY})
    monkeypatch.setattr(divergence, 'KEEP', 2**28 if trained == 'kept' else 0)
    torch.manual_seed(rows)
    leaf = lambda *shape, grad=True: (torch.randn(shape) / 2).to(dtype).requires_grad_(grad)
    hidden = leaf(rows, WIDTH)
    weight, bias = (leaf(*shape, grad=trained != 'frozen') for shape in ((VOCABULARY, WIDTH), (VOCABULARY,)))
    told, named = leaf(rows, 2 * WIDTH, grad=False), leaf(VOCABULARY, 2 * WIDTH, grad=False)
    pull, how = torch.randn(rows), Divergence(beta, 0.9, top)

    found = how(Predictions(hidden, Head(weight, bias, **form)), Predictions(told, Head(named)))
    (found * pull).sum().backward()

    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in (hidden, weight, bias)]
    z = F.linear(*wide) * form.get('scale', 1.0)
    z = form['cap'] * torch.tanh(z / form['cap']) if 'cap' in form else z
    teacher = F.linear(told, named)  # rounded as the kernel's, so that both name the same tokens
    expected = plain(z, teacher.double(), how)
    (expected * pull).sum().backward()
    near(found, expected.detach(), tolerance)
    for ours, reference in zip((hidden, weight, bias), wide, strict=True):
        if ours.requires_grad:
            near(ours.grad, reference.grad, tolerance)


@pytest.mark.parametrize(('ours', 'theirs'), [(97, 90), (90, 97)])
def test_vocabularies_of_different_sizes_are_compared_over_what_both_have(ours, theirs):
    hidden = logits(6, WIDTH).requires_grad_()
    weight = logits(ours, WIDTH, seed=2).requires_grad_()
    teacher = logits(6, theirs, seed=1)
    found = Divergence()(Predictions(hidden, Head(weight)), Predictions(teacher))
    near(found, by_hand((hidden @ weight.T).detach(), teacher, 0.5), 1e-12)
    found.sum().backward()
    assert not weight.grad[theirs:].any()
    assert weight.grad[:90].any()


def test_a_teacher_that_names_its_likeliest_tokens_is_one_that_was_cut_to_them():
    student, teacher = logits(6).requires_grad_(), logits(6, seed=1)
    logps, ids = torch.log_softmax(teacher, -1).topk(5)
    how = Divergence(0.3, 0.9)
    near(how(Predictions(student), Named(ids, logps)), by_hand(student.detach(), teacher, 0.3, 0.9, top=5), 1e-12)


@pytest.mark.parametrize('beta', BETAS)
def test_distributions_that_are_alike_do_not_diverge_and_have_no_gradient(beta):
    student = logits(4).requires_grad_()
    found = Divergence(beta)(Predictions(student), Predictions(student.detach().clone()))
    near(found, torch.zeros(4), 1e-14)
    near(torch.autograd.grad(found.sum(), student)[0], torch.zeros(4, VOCABULARY), 1e-14)


@pytest.mark.parametrize('beta', BETAS)
def test_probabilities_that_underflow_leave_numbers(beta):
    student = torch.tensor([[0.0, -300.0, 300.0], [200.0, 0.0, -200.0]]).requires_grad_()
    teacher = torch.tensor([[300.0, -300.0, 0.0], [200.0, 0.0, -200.0]])
    found = Divergence(beta)(Predictions(student), Predictions(teacher))
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert torch.isfinite(found).all()
    assert torch.isfinite(slope).all()
    near(found, by_hand(student.detach(), teacher, beta), 1e-5)


@pytest.mark.parametrize('shape', [(0, 5), (1, 1), (3, 17), (5, 2047), (2, 2049), (9, 4100)])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('beta', BETAS)
def test_the_compiled_kernel_equals_its_twin(shape, dtype, tolerance, beta, monkeypatch):
    student, teacher = (logits(*shape, seed=i, scale=5.0).to(dtype) for i in range(2))
    found = []
    for fused in (True, False):
        monkeypatch.setattr(divergence.device, 'fused', lambda *_, fused=fused: fused)
        z = student.clone().requires_grad_()
        each = Divergence(beta, 0.7)(Predictions(z), Predictions(teacher))
        each.sum().backward()
        found.append((each.detach(), z.grad))
    near(found[0][0], found[1][0], 1e-5)
    near(found[0][1], found[1][1], tolerance)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('beta', BETAS)
def test_what_is_not_a_number_is_not_hidden(beta, dtype):
    student, teacher = logits(3).to(dtype), logits(3, seed=1).to(dtype)
    student[0, 3] = teacher[1, 5] = float('nan')
    found = Divergence(beta)(Predictions(student), Predictions(teacher))
    assert found.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize('beta', [0.0, 0.5, 0.9])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_tokens_that_a_teacher_rules_out_are_no_trouble(beta, dtype):
    student, teacher = logits(3).to(dtype).requires_grad_(), logits(3, seed=1).to(dtype)
    teacher[:, ::2] = -float('inf')
    found = Divergence(beta)(Predictions(student), Predictions(teacher))
    near(found, by_hand(student.detach(), teacher, beta), 1e-5)
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert slope.isfinite().all()


def test_a_hundred_thousand_words_are_summed_without_loss():
    student, teacher = logits(2, 100_003).float(), logits(2, 100_003, seed=1).float()
    for beta in (0.0, 0.5, 1.0):
        near(Divergence(beta)(Predictions(student), Predictions(teacher)), by_hand(student, teacher, beta), 3e-6)
