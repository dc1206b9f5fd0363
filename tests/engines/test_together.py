"""Prompts answered together, without a thread, by a model that is lent by its training."""

import pytest
import torch

from swift.core.types import Request, Sampling
from swift.engines.native import together
from swift.engines.native.scheduler import Limits
from swift.parallel.answering import lent
from swift.parallel.runner import Runner
from swift.parallel.settings import Settings
from tests import tiny

PROMPTS = [(5, 9, 42), tuple(range(20, 47)), (7,) * 11, (200, 201)]
LIMITS = Limits(max_model_len=96)


def requests(*, temperature=0.0, length=9):
    sampling = lambda i: Sampling(max_tokens=length, temperature=temperature, seed=i)
    return [Request(str(i), prompt, sampling(i)) for i, prompt in enumerate(PROMPTS)]


def alone(model, prompt, count):
    """The likeliest tokens, each from a whole forward pass."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize('architecture', ['llama', 'qwen3', 'mistral', 'gemma2', 'gpt2'])
def test_a_model_that_is_being_trained_answers_as_it_would_by_itself(architecture):
    runner = Runner(tiny.model(architecture).train(), Settings())
    with lent(runner) as model:
        assert not model.training
        found = together.answer(model, requests(), stop_ids=(), limits=LIMITS)
    assert model.training
    assert runner.unpacked_reason is None
    assert found == [alone(tiny.model(architecture), prompt, 9) for prompt in PROMPTS]


def test_answers_are_those_of_the_weights_as_they_are_now():
    runner = Runner(tiny.model(dtype='float64'), Settings())
    with lent(runner) as model:
        before = together.answer(model, requests(), stop_ids=(), limits=LIMITS)
    with torch.no_grad():
        for parameter in runner.model.parameters():
            parameter.mul_(1.5)
    with lent(runner) as model:
        assert together.answer(model, requests(), stop_ids=(), limits=LIMITS) != before


def test_the_same_requests_give_the_same_answers_however_few_run_at_once():
    runner = Runner(tiny.model(dtype='float64'), Settings())
    with lent(runner) as model:
        found = [
            together.answer(model, requests(temperature=0.9), stop_ids=(2,), limits=Limits(96, max_batch_size=size))
            for size in (1, 2, 16, 16)
        ]
    assert all(each == found[0] for each in found)
    assert len(set(found[0])) == len(PROMPTS)


def test_a_failure_is_raised_where_the_answers_are_awaited():
    model = tiny.model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float('nan'))
    with pytest.raises(Exception, match='not finite'):
        together.answer(model, requests(), stop_ids=(), limits=LIMITS)
