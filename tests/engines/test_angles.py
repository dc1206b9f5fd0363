"""Answers of models whose rotary angles depend on a sequence's length are those of transformers alone, whatever lies
beside them: by the kernel, over pages and padded, from both sides of the original length and across it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from swift.core.types import Request, Sampling
from swift.engines.native import scheduler
from swift.engines.native.packed_runner import Misfit, PackedRunner
from swift.engines.native.paged_runner import PagedRunner
from tests import moving
from tests.engines.plain import ask, engine, reference

PROMPTS = [moving.text(n, seed) for seed, n in enumerate((8, 20, 29, 32, 33, 40, 60), 1)]
COUNTS = (30, 40, 12, 20, 10, 25, 9)
WAYS = {'kernel': PackedRunner, 'pages': PagedRunner, 'padded': None}
NEVER = {'eos_token_id': 399}  # a token that the answers below do not have


def wanted(name: str, prompts=PROMPTS, counts=COUNTS) -> list[list[int]]:
    """By a fresh model each: ``dynamic`` remembers the longest sequence."""
    return [reference(moving.model(name), *each, **NEVER) for each in zip(prompts, counts, strict=True)]


@contextmanager
def only(way: str, monkeypatch):
    """Within, engines take this way or none."""

    def refuse(*_, **__):
        raise Misfit('not in this test')

    for name, runner in (('PackedRunner', PackedRunner), ('PagedRunner', PagedRunner)):
        monkeypatch.setattr(scheduler, name, runner if runner is WAYS[way] else refuse)
    yield partial(engine, stop_ids=(399,), max_model_len=256)


def way_of(native) -> type | None:
    packed = native._scheduler._packed
    return None if packed is None else type(packed.runner)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', ['dynamic', 'longrope', 'phi3'])
def test_neighbours_of_other_lengths_change_no_answer(name, way, monkeypatch):
    with only(way, monkeypatch) as started, started(moving.model(name), max_batch_size=5) as native:
        assert way_of(native) is WAYS[way]
        alone = [ask(native, [prompt], Sampling(max_tokens=n))[0] for prompt, n in zip(PROMPTS, COUNTS, strict=True)]
        together = ask(native, PROMPTS, *(Sampling(max_tokens=n) for n in COUNTS))
    expected = wanted(name)
    assert alone == expected
    assert together == expected


def test_experts_of_phi_answer_as_alone():
    with engine(moving.model('phimoe'), stop_ids=(399,)) as native:
        assert ask(native, PROMPTS, *(Sampling(max_tokens=n) for n in COUNTS)) == wanted('phimoe')


@pytest.mark.parametrize('way', ['kernel', 'pages'])
@pytest.mark.parametrize('name', ['dynamic', 'phi3'])
def test_pages_that_are_given_back_and_read_again_are_as_they_were(name, way, monkeypatch):
    with only(way, monkeypatch) as started, started(moving.model(name), max_kv_tokens=160) as native:
        together = ask(native, PROMPTS, *(Sampling(max_tokens=n) for n in COUNTS))
        assert native.stats()['prompt_tokens'] > sum(map(len, PROMPTS))
    assert together == wanted(name)


@pytest.mark.parametrize('way', ['kernel', 'pages'])
@pytest.mark.parametrize('name', sorted(moving.MOVING.keys() - {'phimoe'}))
def test_beginnings_are_shared_only_by_prompts_with_the_same_angles(name, way, monkeypatch):
    long = moving.text(150, 7)
    prompts = [long, long[:32], long[:70], long[:71], long, long[:33]]
    with only(way, monkeypatch) as started, started(moving.model(name)) as native:
        found = [ask(native, [prompt], Sampling(max_tokens=8))[0] for prompt in prompts]
        assert native.stats()['cached_tokens'] >= 128  # the second time of the same prompt, at least
    assert found == wanted(name, prompts, [8] * len(prompts))


@pytest.mark.parametrize('way', WAYS)
def test_several_answers_of_a_prompt_and_its_logprobs_have_its_angles(way, monkeypatch):
    model, prompt = moving.model('longrope'), PROMPTS[5]
    asked = Request('a', tuple(prompt), Sampling(max_tokens=9, n=3, prompt_logprobs=0))
    with only(way, monkeypatch) as started, started(model, max_model_len=64) as native:
        others = native.stream(Request('b', tuple(PROMPTS[0]), Sampling(max_tokens=20)))
        pieces = list(native.stream(asked))
        list(others)
    ids = torch.tensor([prompt])
    logps = moving.model('longrope')(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
    said = torch.tensor([each.logprob for piece in pieces for each in piece.prompt_logprobs])
    torch.testing.assert_close(said, logps, atol=1e-4, rtol=1e-4)
    for index in range(3):
        assert [id for p in pieces if p.index == index for id in p.ids] == wanted('longrope', [prompt], [9])[0]


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name', ['longrope', 'phi3'])
def test_each_of_several_answers_passes_the_original_length_by_itself(name, way, monkeypatch):
    drawn = Sampling(max_tokens=16, n=3, temperature=1.0, seed=7)
    with only(way, monkeypatch) as started, started(moving.model(name)) as native:
        pieces = list(native.stream(Request('a', tuple(PROMPTS[2]), drawn)))
        said = [[id for p in pieces if p.index == index for id in p.ids] for index in range(3)]
        first = said[0][:3]  # what was drawn before the length is passed; greedy from there
        assert ask(native, [[*PROMPTS[2], *first]], Sampling(max_tokens=8)) == wanted(
            name, [[*PROMPTS[2], *first]], [8]
        )
    assert len({tuple(each) for each in said}) == 3
    with only('padded', monkeypatch) as started, started(moving.model(name)) as native:
        again = list(native.stream(Request('a', tuple(PROMPTS[2]), drawn)))
    assert [[id for p in again if p.index == index for id in p.ids] for index in range(3)] == said


@pytest.mark.parametrize('way', ['kernel', 'pages'])
@pytest.mark.parametrize('name', ['dynamic', 'longrope'])
def test_several_answers_that_give_their_pages_back_keep_their_angles(name, way, monkeypatch):
    asked, said = Request('a', tuple(PROMPTS[6]), Sampling(max_tokens=130, n=3, temperature=1.0, seed=7)), []
    for each, room in ((way, 256), ('padded', None)):
        with only(each, monkeypatch) as started, started(moving.model(name), max_kv_tokens=room) as native:
            pieces = list(native.stream(asked))
            read = native.stats()['prompt_tokens']
        said.append([[id for p in pieces if p.index == index for id in p.ids] for index in range(3)])
        assert read > len(PROMPTS[6]) or room is None
    assert said[0] == said[1]


def test_text_that_repeats_itself_is_guessed_across_the_original_length():
    prompt = moving.text(5, 3) * 5
    model = moving.model('phi3')
    for parameter in model.parameters():
        parameter.data *= 0.1  # its answers are loops
    fresh = moving.model('phi3')
    fresh.load_state_dict(model.state_dict())
    with engine(model, stop_ids=(399,)) as native:
        found = ask(native, [prompt], Sampling(max_tokens=40))[0]
        assert native.stats()['guessed_tokens'] > 0
    assert found == reference(fresh, prompt, 40, **NEVER)


def test_a_model_of_unknown_code_whose_angles_move_answers_one_by_one():
    with engine(moving.foreign(), stop_ids=(399,)) as native:
        assert way_of(native) is None
        together = ask(native, PROMPTS, *(Sampling(max_tokens=n) for n in COUNTS))
    assert together == [reference(moving.foreign(), *each, **NEVER) for each in zip(PROMPTS, COUNTS, strict=True)]
