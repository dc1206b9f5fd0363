"""A server somewhere else as an engine: the same tokens and text as the native engine has, and honest failures."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from swift.core.errors import ConfigError, HangError, ModelError, RequestError, SwiftError, UnavailableError
from swift.core.types import Grammar, Request, Sampling
from swift.engines import connection
from swift.engines.client import RemoteEngine
from swift.engines.connection import Connection
from swift.engines.dialects import DIALECTS
from tests import tiny
from tests.engines import plain
from tests.engines.token_server import KEY, Server

STOP = (plain.STOP,)
GREEDY = Sampling(max_tokens=12, stop_ids=STOP)


@pytest.fixture(scope='module')
def server():
    with plain.engine(tiny.model(), max_batch_size=4) as engine, Server(engine) as made:
        yield made


@pytest.fixture
def remote(server):
    """Makes engines over the server, and closes them."""
    made = []

    def make(dialect='vLLM', **changes):
        wire = Connection(server.url, **{'key': KEY, 'timeout': 20, **changes})
        made.append(RemoteEngine(wire, DIALECTS[dialect], model='tiny', decode=plain.PlainTemplate().decode))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    server.faults, server.cut_after, server.pause = [], None, 0.0
    server.left.clear()


def whole(engine, request: Request) -> dict[int, tuple]:
    """Of each choice: text, ids, logprobs and why it ended."""
    found: dict[int, tuple] = {}
    for piece in engine.stream(request):
        text, ids, logprobs, _ = found.get(piece.index, ('', (), (), None))
        found[piece.index] = (text + piece.text, ids + piece.ids, logprobs + piece.logprobs, piece.finish)
    return found


def rounded(found: dict) -> dict:
    """With log-probabilities that JSON may have touched in the last digit."""
    near = lambda rows: [(e.id, round(e.logprob, 5), tuple((id, round(p, 5)) for id, p in e.top)) for e in rows]
    return {i: (text, ids, near(rows), finish) for i, (text, ids, rows, finish) in found.items()}


SAMPLINGS = {
    'greedy': GREEDY,
    'drawn': replace(GREEDY, temperature=1.0, top_k=20, top_p=0.9, seed=7),
    'several': replace(GREEDY, temperature=1.0, seed=3, n=3),
    'several alike': replace(GREEDY, n=2, logprobs=1),
    'logprobs': replace(GREEDY, logprobs=2),
    'steered': replace(GREEDY, min_tokens=5, logit_bias=((2, 50.0), (7, -1.5))),
    'stop string': replace(GREEDY, max_tokens=40, stop=('小', 'qu')),
}


@pytest.mark.parametrize('sampling', SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize('dialect', ['vLLM', 'SGLang'])
def test_answers_are_those_of_the_engine_behind_the_server(server, remote, dialect, sampling):
    for prompt in plain.prompts():
        request = Request('r', tuple(prompt), sampling)
        wanted = whole(server.engine, replace(request, id='wanted'))
        assert rounded(whole(remote(dialect), request)) == rounded(wanted)


def test_lmdeploy_answers_the_same_and_has_several_choices_by_asking_several_times(server, remote):
    request = Request('r', tuple(plain.prompts()[1]), replace(GREEDY, logprobs=0))
    wanted = rounded(whole(server.engine, request))
    assert rounded(whole(remote('LMDeploy'), request)) == wanted
    twice = rounded(whole(remote('LMDeploy'), replace(request, sampling=replace(request.sampling, n=2))))
    assert twice == {0: wanted[0], 1: wanted[0]}


@pytest.mark.parametrize('field', ['grammar', 'presence_penalty', 'prompt_logprobs', 'min_tokens'])
def test_what_a_server_would_ignore_is_refused(remote, field):
    value = Grammar('regex', 'a') if field == 'grammar' else 1
    with pytest.raises(RequestError, match=f'{field}.*LMDeploy cannot do it') as raised:
        remote('LMDeploy').stream(Request('r', (5,), replace(GREEDY, **{field: value})))
    assert raised.value.param == field


def test_log_probabilities_of_the_prompt_come_with_a_whole_answer(server, remote):
    request = Request('r', tuple(plain.prompts()[1]), replace(GREEDY, prompt_logprobs=2))
    wanted = next(server.engine.stream(request)).prompt_logprobs
    if not wanted:
        pytest.skip('the native engine has none yet')
    (piece,) = remote().stream(request)
    assert [(e.id, round(e.logprob, 5)) for e in piece.prompt_logprobs] == [(e.id, round(e.logprob, 5)) for e in wanted]


def test_streams_come_piece_by_piece_to_event_loops_too(server, remote):
    async def both():
        engine = remote()
        requests = [Request(f'r{i}', tuple(prompt), GREEDY) for i, prompt in enumerate(plain.prompts())]
        streams = [engine.submit(request) for request in requests]

        async def text(stream):
            pieces = [piece async for piece in stream]
            assert len(pieces) > 1
            return ''.join(piece.text for piece in pieces)

        return await asyncio.gather(*map(text, streams))

    wanted = [whole(server.engine, Request('w', tuple(prompt), GREEDY))[0][0] for prompt in plain.prompts()]
    assert asyncio.run(both()) == wanted


# -------------------------------------------------------------------------------------------------------- aborts
def test_an_abort_ends_the_answer_and_frees_the_server(server, remote):
    server.pause = 0.05
    engine = remote()
    stream = engine.stream(Request('r', tuple(plain.prompts()[0]), replace(GREEDY, max_tokens=200, stop_ids=())))
    first = next(stream)
    engine.abort('r')
    pieces = list(stream)
    assert (first.finish, pieces[-1].finish) == (None, 'abort')
    assert server.left.wait(10)
    deadline = time.monotonic() + 10
    while server.engine.stats()['open'] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.engine.stats()['open'] == 0
    engine.abort('nobody')


def test_leaving_a_stream_early_hangs_up(server, remote):
    server.pause = 0.05
    stream = remote().stream(Request('r', tuple(plain.prompts()[0]), replace(GREEDY, max_tokens=200, stop_ids=())))
    next(stream)
    stream.close()
    assert server.left.wait(10)


def test_a_request_that_is_aborted_at_once_still_ends(remote):
    engine = remote()
    for i in range(50):
        stream = engine.stream(Request(f'r{i}', (5, 6), GREEDY))
        engine.abort(f'r{i}')
        assert list(stream)[-1].finish in ('abort', 'stop', 'length')
    stats = engine.stats()
    assert stats['open'] == 0
    assert stats['accepted'] == stats['finished'] + stats['aborted'] + stats['failed'] == 50


def test_closing_ends_every_wait(server, remote):
    server.pause = 0.2
    engine = remote()
    streams = [engine.stream(Request(f'r{i}', (5, 6), GREEDY)) for i in range(3)]
    engine.close()
    assert [list(stream)[-1].finish for stream in streams] == ['abort'] * 3
    with pytest.raises(SwiftError, match='closed'):
        engine.stream(Request('late', (5,), GREEDY))


# ------------------------------------------------------------------------------------------------------ failures
@pytest.mark.parametrize(
    ('status', 'said', 'error', 'text'),
    [
        (400, {'error': {'message': 'too long', 'param': 'prompt'}}, RequestError, 'too long'),
        (404, {'detail': 'no such model'}, RequestError, 'no such model'),
        (401, {'error': 'wrong'}, ConfigError, 'refuses the key'),
        (500, {'message': 'boom'}, SwiftError, 'failed with 500: boom'),
        (504, 'slow', HangError, 'gave up: slow'),
    ],
)
def test_errors_of_the_server_are_ours_in_kind(server, remote, status, said, error, text):
    server.faults = [(status, {}, said)]
    with pytest.raises(error, match=text):
        list(remote().stream(Request('r', (5,), GREEDY)))
    assert len(server.faults) == 0


def test_a_busy_server_is_asked_again_when_it_says_and_not_for_ever(server, remote, monkeypatch):
    monkeypatch.setattr(connection, 'FIRST_WAIT', 0.01)
    server.faults = [(429, {'Retry-After': '0.2'}, {}), (503, {}, {})]
    began = time.monotonic()
    assert list(remote().stream(Request('r', (5,), GREEDY)))[-1].finish
    assert time.monotonic() - began >= 0.2
    server.faults = [(429, {}, {'error': {'message': 'full'}})] * connection.AGAIN
    with pytest.raises(UnavailableError, match=r'busy .429.*full'):
        list(remote().stream(Request('r', (5,), GREEDY)))
    assert not server.faults


def test_an_answer_that_breaks_off_is_an_error_and_not_asked_again(server, remote):
    server.cut_after, before = 2, len(server.asked)
    with pytest.raises(SwiftError, match=r'without saying why|hung up'):
        list(remote().stream(Request('r', tuple(plain.prompts()[0]), GREEDY)))
    assert len(server.asked) == before + 1


def test_nobody_there_is_said_after_a_few_tries(monkeypatch):
    monkeypatch.setattr(connection, 'FIRST_WAIT', 0.01)
    engine = RemoteEngine(Connection('http://127.0.0.1:9'), DIALECTS['vLLM'], model='m', decode=lambda ids: '')
    with pytest.raises(UnavailableError, match=r'127.0.0.1:9 cannot be reached'):
        list(engine.stream(Request('r', (5,), GREEDY)))
    engine.close()


def test_why_a_server_of_ours_ended_is_told_instead(monkeypatch):
    monkeypatch.setattr(connection, 'FIRST_WAIT', 0.01)
    wire = Connection('http://127.0.0.1:9', failure=lambda: UnavailableError('vLLM ended with exit code 1'))
    engine = RemoteEngine(wire, DIALECTS['vLLM'], model='m', decode=lambda ids: '')
    with pytest.raises(UnavailableError, match='exit code 1'):
        list(engine.stream(Request('r', (5,), GREEDY)))
    engine.close()


def test_a_silent_server_is_a_hang(server, remote):
    server.pause = 3
    with pytest.raises(HangError, match='sent nothing for 1 s'):
        list(remote(timeout=1).stream(Request('r', (5,), GREEDY)))


@pytest.mark.parametrize('url', ['localhost:8000', 'ftp://x', 'http://', ''])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match='is no URL'):
        Connection(url)


# ------------------------------------------------------------------------------------------------------ adapters
def test_adapters_are_loaded_by_the_server_and_asked_for_by_name(server, remote):
    engine = remote()
    with pytest.raises(RequestError, match="'law' is not loaded"):
        engine.stream(Request('r', (5,), GREEDY, 'law'))
    engine.load_adapter('law', Path('/adapters/law'))
    assert (engine.adapters, server.adapters) == (('law',), {'law': '/adapters/law'})
    list(engine.stream(Request('r', (5,), GREEDY, 'law')))
    assert server.asked[-1][1]['model'] == 'law'
    with pytest.raises(RequestError, match='did you mean law'):
        engine.stream(Request('r', (5,), GREEDY, 'lav'))
    engine.unload_adapter('law')
    assert (engine.adapters, server.adapters) == ((), {})


def test_an_adapter_that_the_server_refuses_is_not_there(remote):
    engine = remote()
    with pytest.raises(ModelError, match='no such folder'):
        engine.load_adapter('law', Path('/nowhere'))
    assert engine.adapters == ()
    with pytest.raises(ModelError, match='merge'):
        remote('LMDeploy').load_adapter('law', Path('/adapters/law'))
    with pytest.raises(ModelError, match='native'):
        engine.update([])
