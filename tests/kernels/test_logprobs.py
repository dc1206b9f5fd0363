"""Log-probs, from logits and from hidden states, against float64 autograd."""

import pytest
import torch
import torch.nn.functional as F

from swift.kernels import logprobs
from swift.kernels.logprobs import Head, linear_logprobs, plain_rows, target_logprobs

DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
VOCABULARY, WIDTH = 97, 24


def near(found, expected, tolerance):
    """By norm: single numbers of 16 bits round as they like."""
    scale = max(1.0, float(expected.double().norm()))
    assert float((found.detach().double() - expected.double()).norm()) <= tolerance * scale


@pytest.mark.parametrize('rows', [0, 1, 127, 128, 300])
@pytest.mark.parametrize(('dtype', 'tolerance'), DTYPES)
def test_scores_and_gradient_of_logits_equal_float64_autograd(rows, dtype, tolerance):
    torch.manual_seed(rows)
    logits = (torch.randn(rows, VOCABULARY) * 4).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (rows,))
    pull, push = torch.randn(2, rows)

    found = target_logprobs(logits, targets)
    (found.logps * pull + found.lse * push).sum().backward()

    wide = logits.detach().double().requires_grad_()
    everything = torch.log_softmax(wide, -1)
    expected = everything.gather(1, targets[:, None])[:, 0]
    (expected * pull + torch.logsumexp(wide, -1) * push).sum().backward()
    near(found.logps, expected.detach(), tolerance)
    near(found.entropy, -(everything.exp() * everything).sum(-1).detach(), tolerance)
    near(logits.grad, wide.grad, tolerance)
    assert torch.equal(found.correct, wide.argmax(-1) == targets)


@pytest.mark.parametrize('rows', [0, 1, 63, 64, 300])
@pytest.mark.parametrize('form', [{}, {'scale': 0.3}, {'cap': 5.0}, {'scale': 2.0, 'cap': 3.0}], ids=str)
@pytest.mark.parametrize('trained', ['frozen', 'kept', 'computed again'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize('biased', [False, True])
def test_scores_and_gradients_of_a_head_equal_float64_autograd(
    rows, form, trained, dtype, tolerance, biased, monkeypatch
):
    monkeypatch.setattr(logprobs, 'CHUNK', {'cpu': 64 * VOCABULARY})
    monkeypatch.setattr(logprobs, 'KEEP', 2**28 if trained == 'kept' else 0)
    torch.manual_seed(rows)
    leaf = lambda *shape, grad=True: (torch.randn(shape) / 2).to(dtype).requires_grad_(grad)
    hidden = leaf(rows, WIDTH)
    weight = leaf(VOCABULARY, WIDTH, grad=trained != 'frozen')
    bias = leaf(VOCABULARY, grad=trained != 'frozen') if biased else None
    targets = torch.randint(0, VOCABULARY, (rows,))
    pull, push = torch.randn(2, rows)

    found = linear_logprobs(hidden, Head(weight, bias, **form), targets)
    (found.logps * pull + found.lse * push).sum().backward()

    wide = [None if x is None else x.detach().double().requires_grad_(x.requires_grad) for x in (hidden, weight, bias)]
    z = F.linear(*wide) * form.get('scale', 1.0)
    z = form['cap'] * torch.tanh(z / form['cap']) if 'cap' in form else z
    lse = torch.logsumexp(z, -1)
    expected = z.gather(1, targets[:, None])[:, 0] - lse
    (expected * pull + lse * push).sum().backward()
    near(found.logps, expected.detach(), tolerance)
    near(found.lse, lse.detach(), tolerance)
    for ours, reference in zip((hidden, weight, bias), wide, strict=True):
        if ours is not None and ours.requires_grad:
            near(ours.grad, reference.grad, tolerance)


def test_a_hundred_thousand_words_are_summed_without_loss():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 100_003) * 4, torch.tensor([0, 50_000, 100_002])
    found, plain = target_logprobs(logits, targets), plain_rows(logits.double(), targets, gradient=False)
    near(found.lse, plain[1], 3e-7)
    near(found.entropy, plain[2], 3e-6)


def test_of_equal_logits_the_first_is_the_answer():
    logits = torch.zeros(2, 40)
    assert target_logprobs(logits, torch.tensor([0, 1])).correct.tolist() == [True, False]


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_logit_that_is_no_number_shows_in_its_row_alone(bad):
    logits = torch.randn(2, 40)
    logits[1, 7] = bad
    found = target_logprobs(logits, torch.tensor([3, 4]))
    assert found.logps.isfinite().tolist() == [True, False]
    assert torch.equal(target_logprobs(logits[:1], torch.tensor([3])).logps, found.logps[:1])


def test_an_impossible_word_costs_nothing_but_its_own_log_prob():
    logits = torch.randn(1, 40)
    logits[0, 7] = float('-inf')
    found = target_logprobs(logits, torch.tensor([3]))
    expected = torch.distributions.Categorical(logits=logits[:, torch.arange(40) != 7].double())
    near(found.entropy, expected.entropy(), 1e-6)
