"""A real vLLM below us, on a tiny model: the tokens are those of the native engine, and its manners are ours.

Runs with ``yichuidingyin.sh test --with vllm``, or where SWIFT_TEST_VLLM names a Python that has vLLM.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from swift.core.errors import ModelError, RequestError, UnavailableError
from swift.core.types import Grammar, Request, Sampling
from swift.engines.args import EngineArgs, VllmArgs
from swift.engines.opening import Groups, open_chat
from swift.engines.protocol import InferRequest, RequestConfig
from swift.models.args import ModelArgs
from tests import tiny
from tests.adapters import adapter
from tests.engines import plain

PYTHON = os.environ.get('SWIFT_TEST_VLLM')
SIZE = {
    'hidden_size': 64,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'head_dim': 32,
}  # that it has kernels for
GREEDY = Sampling(max_tokens=12, stop_ids=(plain.STOP,))

pytestmark = pytest.mark.skipif(not PYTHON, reason='needs vLLM: yichuidingyin.sh test --with vllm')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('vllm')
    tiny.folder(home / 'tiny', **SIZE)
    adapter(home / 'law', tiny.model(**SIZE))
    return home


@pytest.fixture(scope='module')
def chat(world):
    flags = Groups(
        model=ModelArgs(model=str(world / 'tiny'), adapters=[f'law={world}/law'], max_model_len=256),
        engine=EngineArgs(infer_backend='vllm', backend_python=PYTHON, backend_timeout=900),
        vllm=VllmArgs(vllm_enforce_eager=True, vllm_engine_kwargs={'kv_cache_memory_bytes': 1 << 28}),
    )
    opened = open_chat(flags)
    yield opened
    opened.close()


@pytest.fixture(scope='module')
def engine(chat):
    return chat.engine


def answers(engine, prompts, sampling=GREEDY, adapter=None):
    """Token ids and text of the first choice for every prompt, all asked at once."""
    streams = [engine.stream(Request(f'r{i}', tuple(prompt), sampling, adapter)) for i, prompt in enumerate(prompts)]
    whole = [list(stream) for stream in streams]
    return [([id for p in pieces for id in p.ids], ''.join(p.text for p in pieces)) for pieces in whole]


def native(prompts, sampling=GREEDY, model=None, adapter=None):
    with plain.engine(model or tiny.model(**SIZE)) as engine:
        if adapter is not None:
            engine.load_adapter('law', adapter)
        return answers(engine, prompts, sampling, 'law' if adapter else None)


def test_greedy_answers_are_those_of_the_native_engine(engine):
    assert answers(engine, plain.prompts()) == native(plain.prompts())


def test_an_adapter_answers_beside_the_base(world, engine):
    wanted = native(plain.prompts(), adapter=world / 'law')
    assert wanted != native(plain.prompts())
    assert answers(engine, plain.prompts(), adapter='law') == wanted
    assert answers(engine, plain.prompts()) == native(plain.prompts())


def test_adapters_come_and_go_while_it_runs(world, engine):
    engine.load_adapter('copy', world / 'law')
    assert answers(engine, plain.prompts(), adapter='copy') == answers(engine, plain.prompts(), adapter='law')
    engine.unload_adapter('copy')
    with pytest.raises(RequestError, match='not loaded'):
        answers(engine, plain.prompts(), adapter='copy')
    with pytest.raises(ModelError, match='cannot be loaded'):
        engine.load_adapter('wrong', world / 'nowhere')


def test_log_probabilities_are_those_of_the_native_engine(engine):
    sampling, (prompt, *_) = replace(GREEDY, logprobs=3), plain.prompts()[1:]
    with plain.engine(tiny.model(**SIZE)) as other:
        found, wanted = (
            [each for piece in one.stream(Request('l', tuple(prompt), sampling)) for each in piece.logprobs]
            for one in (engine, other)
        )
    assert [each.id for each in found] == [each.id for each in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert [id for id, _ in mine.top] == [id for id, _ in theirs.top]


def test_log_probabilities_of_the_prompt_come_with_the_answer(engine):
    import torch

    prompt = plain.prompts()[1]
    (piece,) = engine.stream(Request('p', tuple(prompt), replace(GREEDY, prompt_logprobs=1)))
    with torch.no_grad():
        logits = tiny.model(**SIZE)(torch.tensor([prompt])).logits[0]
    wanted = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(prompt)[1:, None])[:, 0].tolist()
    assert [each.id for each in piece.prompt_logprobs] == list(prompt[1:])
    assert [each.logprob for each in piece.prompt_logprobs] == pytest.approx(wanted, abs=1e-4)


def test_a_seed_gives_the_same_answer_alone_and_in_company(engine):
    drawn = replace(GREEDY, temperature=1.0, seed=11)
    together = answers(engine, plain.prompts(), drawn)
    assert [answers(engine, [prompt], drawn)[0] for prompt in plain.prompts()] == together
    assert answers(engine, plain.prompts(), replace(drawn, seed=12)) != together


def test_several_choices_share_a_prompt(engine):
    pieces = list(engine.stream(Request('n', tuple(plain.prompts()[0]), replace(GREEDY, temperature=1.0, n=3, seed=1))))
    assert {piece.index for piece in pieces} == {0, 1, 2}
    assert sum(piece.finish is not None for piece in pieces) == 3


def test_stop_strings_end_answers_where_the_native_engine_does(engine):
    for prompt, (_, text) in zip(plain.prompts(), native(plain.prompts()), strict=True):
        word = re.search('[a-zA-Z]{2,}', text[1:])  # bytes that are no character are told in different ways
        if word is not None:
            stop = replace(GREEDY, stop=(word[0],))
            assert answers(engine, [prompt], stop)[0][1] == native([prompt], stop)[0][1] == text[: text.find(word[0])]


@pytest.mark.parametrize(
    ('grammar', 'matches'),
    [
        (Grammar('regex', '[ab]{4}'), lambda text: re.fullmatch('[ab]{4}', text)),
        (Grammar('choice', '["Paris", "Rome"]'), lambda text: text in ('Paris', 'Rome')),
        (Grammar('json', '{"enum": [7]}'), lambda text: json.loads(text) == 7),
    ],
    ids=['regex', 'choice', 'json'],
)
def test_answers_follow_a_grammar(engine, grammar, matches):
    ((_, text),) = answers(engine, plain.prompts()[:1], replace(GREEDY, max_tokens=20, grammar=grammar))
    assert matches(text), text


def test_conversations_are_answered_as_by_the_native_engine(world, chat):
    asked = [InferRequest([{'role': 'user', 'content': text}]) for text in plain.TEXTS]
    how = RequestConfig(max_tokens=8, temperature=0)
    other = open_chat(Groups(model=ModelArgs(model=str(world / 'tiny'), adapters=[f'law={world}/law'])))
    said = lambda engine: [each.choices[0].message.content for each in engine.infer(asked, how)]
    assert said(chat) == said(other)
    other.close()


def test_a_prompt_that_is_too_long_is_the_requests_own_fault(engine):
    with pytest.raises(RequestError, match='256'):
        answers(engine, [[5] * 300])
    assert answers(engine, plain.prompts()[:1])


def test_aborted_requests_make_room(engine):
    long = replace(GREEDY, max_tokens=200, stop_ids=())
    before = engine.stats()
    for i in range(20):
        stream = engine.stream(Request(f'a{i}', tuple(plain.prompts()[i % 5]), long))
        next(stream)
        stream.close() if i % 2 else engine.abort(f'a{i}')
    began = time.monotonic()
    assert answers(engine, plain.prompts()) == native(plain.prompts())
    assert time.monotonic() - began < 30
    stats = engine.stats()
    assert stats['open'] == 0
    assert stats['aborted'] - before['aborted'] == 20


def test_new_weights_answer_at_once(engine):
    other, old = tiny.model(seed=1, **SIZE), tiny.model(**SIZE)
    engine.update(other.state_dict().items())
    assert answers(engine, plain.prompts()) == native(plain.prompts(), model=other)
    engine.update(old.state_dict().items())
    assert answers(engine, plain.prompts()) == native(plain.prompts())


def test_when_its_worker_is_killed_requests_fail_and_nothing_is_left(engine):
    """The last one: the engine is gone after it."""
    guard = engine.server._guard.pid
    below = _below(guard)
    assert len(below) >= 2
    stream = engine.stream(Request('k', tuple(plain.prompts()[0]), replace(GREEDY, max_tokens=200, stop_ids=())))
    next(stream)
    os.kill(below[-1], signal.SIGKILL)
    with pytest.raises(UnavailableError, match='vLLM ended'):
        for _ in range(3):
            list(stream)
            stream = engine.stream(Request('k2', tuple(plain.prompts()[0]), GREEDY))
    deadline = time.monotonic() + 60
    while any(Path(f'/proc/{pid}').exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in below if Path(f'/proc/{pid}').exists()]


def _below(pid: int) -> list[int]:
    """Processes below one, parents first."""
    listed = subprocess.run(['ps', '-eo', 'pid=,ppid='], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found, todo = [], [pid]
    while todo:
        children = [child for child, parent in parents.items() if parent == todo[0]]
        todo = [*todo[1:], *children]
        found += children
    return found
