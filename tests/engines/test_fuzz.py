"""Random traffic: requests join, draw, end and are aborted in any order, and every answer is the one it gives alone."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from swift.core.types import Request, Sampling
from tests import moving, tiny
from tests.engines.plain import engine, reference
from tests.engines.test_greedy import lively

PATIENCE = 120.0  # seconds; a busy machine is no failure
LONGEST = 24


class Client(threading.Thread):
    """Asks for one answer and perhaps leaves before its end."""

    def __init__(self, native, request: Request, leave_after: int | None):
        super().__init__(daemon=True)
        self.native, self.request, self.leave_after = native, request, leave_after
        self.ids: dict[int, list[int]] = {i: [] for i in range(request.sampling.n)}
        self.ends: dict[int, str] = {}

    def run(self) -> None:
        for count, piece in enumerate(self.native.stream(self.request)):
            self.ids[piece.index] += piece.ids
            if piece.finish:
                self.ends[piece.index] = piece.finish
            if count == self.leave_after:
                self.native.abort(self.request.id)


def traffic(seed: int, count: int) -> list[tuple[Request, int | None]]:
    """Requests of random prompts, some with a common beginning, and after how many pieces their client leaves."""
    draw = random.Random(seed)
    begin = [draw.randrange(5, 399) for _ in range(90)]
    made = []
    for i in range(count):
        own = [draw.randrange(5, 399) for _ in range(draw.choice((1, 2, 7, 31, 32, 33, 70)))]
        prompt = begin[: draw.choice((0, 0, 5, 32, 64, 90))] + own
        sampling = Sampling(
            max_tokens=draw.randint(1, LONGEST),
            temperature=draw.choice((0.0, 0.0, 1.2)),
            top_k=draw.choice((0, 20)),
            repetition_penalty=draw.choice((1.0, 1.0, 1.3)),
            seed=i,
            n=draw.choice((1, 1, 1, 3)),
            logit_bias=draw.choice(((), (), ((7, 3.0), (draw.randrange(5, 399), -2.0)))),
        )
        sampling = replace(sampling, min_tokens=draw.choice((0, 0, sampling.max_tokens // 2)))
        made.append((Request(f'{i}', tuple(prompt), sampling), draw.choice((None, None, None, 0, 3))))
    return made


def ends_balanced(native) -> dict[str, float]:
    end = time.monotonic() + PATIENCE
    while any((stats := native.stats())[name] for name in ('open', 'running', 'waiting')) and time.monotonic() < end:
        time.sleep(0.01)
    assert stats['accepted'] == stats['finished'] + stats['aborted'] + stats['failed']
    assert stats['running'] == stats['waiting'] == 0
    return native.stats()


def play(model, seed: int, *, count: int = 24, **limits) -> None:
    """Random traffic in bursts; each answer must be what the engine says when the request is alone."""
    asked = traffic(seed, count)
    with engine(model, max_model_len=256, stop_ids=(2,), max_batch_size=1) as native:
        alone = [Client(native, request, None) for request, _ in asked]
        for client in alone:
            client.run()
    for client in alone:
        s = client.request.sampling
        if s.temperature == 0 and s.repetition_penalty == 1 and not s.logit_bias:
            wanted = reference(model, client.request.prompt_ids, s.max_tokens, min_new_tokens=s.min_tokens)
            assert all(ids == wanted for ids in client.ids.values())
    draw = random.Random(seed)
    with engine(model, max_model_len=256, stop_ids=(2,), max_batch_size=draw.choice((3, 8)), **limits) as native:
        clients = [Client(native, *each) for each in asked]
        for client in clients:
            client.start()
            time.sleep(draw.choice((0, 0, 0, 0.02)))
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive()
        stats = ends_balanced(native)
    assert stats.get('kv_used', 0) == 0
    for client, own in zip(clients, alone, strict=True):
        for index, ids in client.ids.items():
            if client.ends[index] == 'abort':
                assert ids == own.ids[index][: len(ids)]
            else:
                assert (ids, client.ends[index]) == (own.ids[index], own.ends[index])


@pytest.mark.parametrize('architecture', ['llama', 'qwen3', 'gemma2', 'mistral', 'gpt2'])
def test_answers_do_not_depend_on_who_comes_and_goes(architecture):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny.model(architecture)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    play(model, seed=1)


@pytest.mark.parametrize('architecture', ['qwen3_next', 'gpt_oss', 'falcon_h1'])
def test_the_same_holds_for_unusual_caches(architecture):
    play(lively(architecture), seed=2, count=10)


@pytest.mark.parametrize('name', ['dynamic', 'longrope', 'phi3'])
def test_the_same_holds_where_angles_depend_on_the_length(name):
    play(moving.model(name), seed=3, count=14, max_kv_tokens=320)
