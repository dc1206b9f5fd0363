"""The fast lane: what it shares, guesses and gives back never shows in an answer."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from swift.core.errors import OutOfMemory
from swift.core.types import Request, Sampling
from swift.engines.native.pages import Pages
from tests import tiny
from tests.engines.plain import ask, engine, prompts, reference
from tests.engines.test_fuzz import ends_balanced, play, traffic
from tests.kernels.test_decoder import lively

LONG = tuple(5 + i * 37 % 390 for i in range(100))


def test_pages_are_counted_exactly_whatever_happens():
    draw, pages = random.Random(0), Pages(40, 4)
    held: list[list[int]] = []
    for _ in range(5000):
        if held and (draw.random() < 0.5 or pages.room < 8):
            pages.drop(held.pop(draw.randrange(len(held))))
            continue
        ids = [draw.randrange(2) for _ in range(draw.randrange(1, 25))]
        mine, name = pages.find(pages.root(draw.randrange(2)), ids)
        for at in range(len(mine) * 4, len(ids), 4):
            mine.append(pages.take())
            if at + 4 <= len(ids):
                name = pages.remember(name, ids[at : at + 4], mine[-1])
        held.append(mine)
        assert pages.held == len({page for each in held for page in each})
        if draw.random() < 0.01:
            pages.forget_all()
    for each in held:
        pages.drop(each)
    assert (pages.held, pages.room) == (0, 40)


def test_only_equal_beginnings_of_one_kind_are_found():
    pages = Pages(8, 2)
    first, second = pages.take(), pages.take()
    name = pages.remember(pages.root('a'), (1, 2), first)
    pages.remember(name, (3, 4), second)
    assert pages.find(pages.root('a'), (1, 2, 3, 4, 5))[0] == [first, second]
    assert pages.find(pages.root('a'), (1, 2, 9, 4))[0] == [first]
    assert pages.find(pages.root('a'), (3, 4))[0] == []
    assert pages.find(pages.root('b'), (1, 2, 3, 4))[0] == []


def test_a_prompt_that_was_read_before_is_not_read_again():
    model = tiny.model()
    wanted = reference(model, LONG, 6)
    with engine(model) as native:
        assert ask(native, [LONG], Sampling(max_tokens=6)) == [wanted]
        assert native.stats()['cached_tokens'] == 0
        assert ask(native, [LONG], Sampling(max_tokens=6)) == [wanted]
        assert native.stats()['cached_tokens'] == 96
        native.update(tiny.model(seed=1).state_dict().items())
        assert ask(native, [LONG], Sampling(max_tokens=6)) == [reference(tiny.model(seed=1), LONG, 6)]
        assert native.stats()['cached_tokens'] == 96


def test_choices_of_one_prompt_read_it_once():
    with engine(tiny.model()) as native:
        list(native.stream(Request('a', LONG, Sampling(max_tokens=4, n=5, temperature=1.0, seed=3))))
        stats = native.stats()
    assert stats['prompt_tokens'] == len(LONG)
    assert stats['kv_used'] == 0


def test_answers_survive_having_to_give_their_pages_back():
    """Room for 8 pages; four answers of up to 3 pages each."""
    model = lively('llama')
    asked = [LONG[i : i + 40] for i in range(4)]
    wanted = [reference(model, prompt, 50, eos_token_id=-1) for prompt in asked]
    with engine(model, stop_ids=(), max_kv_tokens=8 * 32) as native:
        assert ask(native, asked, Sampling(max_tokens=50)) == wanted
        assert native.stats()['kv_used'] == 0


def test_a_request_that_no_room_suffices_for_fails_alone():
    with engine(tiny.model(), stop_ids=(), max_kv_tokens=64) as native:
        with pytest.raises(OutOfMemory, match='max_kv_tokens'):
            ask(native, [LONG], Sampling(max_tokens=4))
        assert len(ask(native, [LONG[:10]], Sampling(max_tokens=4))[0]) == 4


@pytest.mark.parametrize('sampling', [{}, {'temperature': 0.3, 'seed': 5}, {'repetition_penalty': 1.2}])
def test_guesses_change_nothing_but_the_number_of_steps(sampling):
    """A random model soon repeats itself, so that guesses are often right."""
    model = tiny.model()
    found, steps = [], []
    for guessing in (True, False):
        with engine(model, stop_ids=(), guessing=guessing) as native:
            found.append(ask(native, prompts()[:2], Sampling(max_tokens=60, **sampling)))
            steps.append(native.stats()['steps'])
    assert found[0] == found[1]
    if not sampling:
        assert steps[0] < steps[1]


def test_log_probabilities_of_the_prompt_are_those_of_the_model():
    model, prompt = tiny.model(), LONG[:45]
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for native_model in (model, copy.deepcopy(model).double()):  # with pages, and without
        with engine(native_model) as native:
            for _ in range(2):  # also where the prompt could be found again
                pieces = list(native.stream(Request('a', prompt, Sampling(max_tokens=3, prompt_logprobs=2, n=2))))
        told = [piece for piece in pieces if piece.prompt_logprobs]
        assert len(told) == 1 and told[0].index == 0
        assert [each.id for each in told[0].prompt_logprobs] == list(prompt[1:])
        for at, each in enumerate(told[0].prompt_logprobs):
            assert each.logprob == pytest.approx(float(wanted[at, prompt[at + 1]]), abs=1e-4)
            assert [id for id, _ in each.top] == wanted[at].topk(2).indices.tolist()


def test_a_broken_pass_takes_only_the_guilty_with_it():
    model = tiny.model()
    wanted = [reference(model, prompt, 5) for prompt in prompts()]
    with engine(model) as native:
        packed = native._scheduler._packed
        inner = packed.runner.forward

        def forward(chunks):
            if any(398 in chunk.ids for chunk in chunks):
                raise RuntimeError('cursed token')
            return inner(chunks)

        packed.runner.forward = forward
        good = [native.stream(Request(f'{i}', tuple(p), Sampling(max_tokens=5))) for i, p in enumerate(prompts())]
        bad = native.stream(Request('bad', (398,), Sampling(max_tokens=5)))
        assert [[id for piece in stream for id in piece.ids] for stream in good] == wanted
        with pytest.raises(RuntimeError, match='cursed'):
            list(bad)
        assert ends_balanced(native)['kv_used'] == 0


def test_thousands_of_aborts_leak_no_page():
    with engine(tiny.model(), stop_ids=(), max_batch_size=32) as native:
        for round in range(20):
            streams = [
                native.stream(Request(f'{round}.{i}', request.prompt_ids, Sampling(max_tokens=40, n=2)))
                for i, (request, _) in enumerate(traffic(round, 50))
            ]
            for i in range(len(streams)):
                native.abort(f'{round}.{i}')
        stats = ends_balanced(native)
    assert stats['kv_used'] == 0
    assert stats['accepted'] == 1000


def test_little_room_and_random_traffic_give_the_same_answers():
    play(lively('llama'), seed=7, max_kv_tokens=12 * 32)
