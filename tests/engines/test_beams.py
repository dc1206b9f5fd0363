"""A search with beams finds what transformers' own finds, token by token, while other requests are answered."""

from __future__ import annotations

import pytest
import torch

from swift.core.errors import RequestError
from swift.core.types import Grammar, Request, Sampling
from swift.engines.chat import Defaults, sampling
from swift.engines.dialects import DIALECTS
from swift.engines.protocol import RequestConfig
from tests import moving, tiny
from tests.engines.plain import ask, engine, prompts, reference
from tests.engines.test_greedy import lively


def uneven(model):
    """The same model, some of whose tokens end answers early or late."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            with torch.random.fork_rng():
                torch.manual_seed(parameter.numel())
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def ends(model) -> list[int]:
    """Tokens that likely answers of the first prompts have."""
    return [
        reference(model, prompt, 9, eos_token_id=399)[at] for prompt, at in zip(prompts()[:3], (4, 6, 8), strict=True)
    ]


@pytest.mark.parametrize('beams', [2, 3, 5])
@pytest.mark.parametrize('architecture', ['llama', 'mistral', 'gpt2'])
def test_a_search_finds_the_tokens_of_transformers(architecture, beams):
    model = uneven(tiny.model(architecture))
    stops = ends(model)
    wanted = [reference(model, prompt, 14, eos_token_id=stops, num_beams=beams) for prompt in prompts()]
    assert min(map(len, wanted)) < 14 and wanted != [reference(model, p, 14, eos_token_id=stops) for p in prompts()]
    with engine(model, stop_ids=stops) as native:
        assert ask(native, prompts(), Sampling(max_tokens=14, num_beams=beams)) == wanted


@pytest.mark.parametrize('length_penalty', [-1.0, 0.0, 2.5])
def test_long_answers_are_preferred_as_the_penalty_says(length_penalty):
    model = uneven(tiny.model('qwen3'))
    stops = ends(model)
    how = {'num_beams': 4, 'length_penalty': length_penalty, 'repetition_penalty': 1.3}
    wanted = [reference(model, prompt, 14, eos_token_id=stops, **how) for prompt in prompts()]
    with engine(model, stop_ids=stops) as native:
        assert ask(native, prompts(), Sampling(max_tokens=14, **how)) == wanted


@pytest.mark.parametrize('architecture', ['qwen3_next', 'bloom'])
def test_recurrent_states_and_other_caches_follow_their_beams(architecture):
    model = lively(architecture)
    wanted = [reference(model, prompt, 10, eos_token_id=399, num_beams=3) for prompt in prompts()[:2]]
    with engine(model, stop_ids=(399,)) as native:
        assert ask(native, prompts()[:2], Sampling(max_tokens=10, num_beams=3)) == wanted


@pytest.mark.parametrize('name', ['phi3', 'dynamic'])
def test_angles_that_move_do_so_for_every_beam(name):
    prompt = moving.text(28, 3)
    wanted = reference(moving.model(name), prompt, 12, eos_token_id=399, num_beams=3)
    with engine(moving.model(name), stop_ids=(399,)) as native:
        assert ask(native, [prompt], Sampling(max_tokens=12, num_beams=3)) == [wanted]


def test_other_requests_go_on_beside_a_search_and_an_aborted_one_ends():
    model = uneven(tiny.model('llama'))
    mixed = [Sampling(max_tokens=12, num_beams=n) for n in (3, 1, 4, 1, 1)]
    wanted = [
        reference(model, prompt, 12, eos_token_id=399, num_beams=each.num_beams)
        for prompt, each in zip(prompts(), mixed, strict=True)
    ]
    with engine(model, stop_ids=(399,), max_model_len=4096) as native:
        long = native.stream(Request('long', tuple(prompts()[0]), Sampling(max_tokens=4000, num_beams=3)))
        native.abort('long')
        assert [piece.finish for piece in long] == ['abort']
        assert ask(native, prompts(), *mixed) == wanted
        stats = native.stats()
    assert stats['accepted'] == 6 == stats['finished'] + stats['aborted'] and stats['running'] == 0


@pytest.mark.parametrize(
    'more',
    [
        {'temperature': 0.5}, {'n': 2}, {'stop': ('a',)}, {'logprobs': 0}, {'grammar': Grammar('regex', 'a')},
        {'num_beams': 65},
    ],
)  # fmt: skip
def test_what_a_search_cannot_be_asked_for_is_refused_by_name(more):
    with engine(tiny.model('llama'), tokenizer=tiny.tokenizer()) as native:
        with pytest.raises(RequestError) as caught:
            native.stream(Request('a', (3,), Sampling(**{'num_beams': 2, **more})))
        assert caught.value.param in more


def test_streams_other_engines_and_penalties_without_beams_are_refused():
    how = {'longest': 9, 'special': {}}
    assert sampling(RequestConfig(num_beams=3, length_penalty=0.5), Defaults(), **how).length_penalty == 0.5
    with pytest.raises(RequestError, match='cannot be streamed'):
        sampling(RequestConfig(num_beams=3, stream=True), Defaults(), **how)
    with pytest.raises(RequestError, match='give num_beams too'):
        sampling(RequestConfig(length_penalty=0.5), Defaults(), **how)
    for dialect in DIALECTS.values():
        with pytest.raises(RequestError, match='native engine can'):
            dialect.check(Request('a', (3,), Sampling(num_beams=2)))
