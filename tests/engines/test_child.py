"""An engine in a process of its own: it answers the same, dies alone, starts again, never outlives its server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swift.core.errors import HangError, ModelError, NumericalError, RequestError, SwiftError, UnavailableError
from swift.core.types import Grammar, Piece, Request, Sampling, TokenLogprob
from swift.engines import wire
from swift.engines.child import ChildEngine, Recipe
from swift.engines.fake import END, FakeEngine

FAKE = 'swift.engines.fake:FakeEngine'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def child():
    made = []

    def open_child(stall=120.0, **arguments):
        made.append(ChildEngine(Recipe(FAKE, arguments), stall=stall))
        made[-1].wait(60)
        return made[-1]

    yield open_child
    for each in made:
        each.close()


def asked(text, id='r', **sampling):
    return Request(id, tuple(text.encode()), Sampling(**{'stop_ids': (END,), **sampling}))


def said(pieces):
    return ''.join(piece.text for piece in pieces)


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------------------------------------------------- answers
def test_values_cross_the_wire_unchanged():
    sampling = Sampling(
        stop=('a', 'é'), stop_ids=(1, 2), seed=3, grammar=Grammar('regex', 'a+'), logprobs=2, logit_bias=((5, 1.5),)
    )
    request = Request('x', (1, 2, 3), sampling, 'adapter')
    piece = Piece(1, 'text', (5,), (TokenLogprob(5, -0.25, ((5, -0.25), (6, -1.5))),), 'stop', (TokenLogprob(1, -1.0),))
    sent = wire.frame(['begin', wire.request_out(request)]) + wire.frame(['pieces', [['x', wire.item_out(piece)]]])
    frames = wire.Frames()
    messages = [message for i in range(len(sent)) for message in frames.push(sent[i : i + 1])]
    assert wire.request_in(messages[0][1]) == request
    assert wire.item_in(messages[1][1][0][1]) == piece


@pytest.mark.parametrize('error', [RequestError('no', param='n'), NumericalError('nan'), UnavailableError('later')])
def test_errors_keep_their_kind_words_and_field(error):
    found = wire.error_in(wire.error_out(error))
    assert (type(found), str(found)) == (type(error), str(error))
    assert getattr(found, 'param', None) == getattr(error, 'param', None)


def test_a_child_answers_what_the_engine_itself_answers(child):
    here, there = FakeEngine(), child()
    for request in (asked('Hällo 你好'), asked('abcdef', stop=('de',)), asked('abc', max_tokens=2, logprobs=2, n=2)):
        assert list(there.stream(request)) == list(here.stream(request))
    here.close()
    stats = there.stats()
    assert (stats['accepted'], stats['finished'], stats['open']) == (3, 3, 0)


def test_a_request_that_is_not_valid_fails_alone(child):
    engine = child(faults={'nan': ('nan', 2), 'boom': ('error', 1)})
    good = engine.stream(asked('good', 'good'))
    with pytest.raises(NumericalError):
        list(engine.stream(asked('nan', 'bad')))
    with pytest.raises(SwiftError, match='ValueError'):
        list(engine.stream(asked('boom', 'worse')))
    with pytest.raises(RequestError) as caught:
        list(engine.stream(Request('nobody', (65,), Sampling(), 'nobody')))
    assert caught.value.param == 'model'
    assert said(good) == 'good'


def test_leaving_a_stream_aborts_it(child):
    engine = child(step_seconds=0.01)
    stream = engine.stream(asked('x' * 3000, max_tokens=3000))
    next(stream)
    stream.close()
    until(lambda: engine.stats()['open'] == 0)
    assert engine.stats()['aborted'] == 1


def test_adapters_are_loaded_taken_off_and_there_again_after_a_restart(child, tmp_path):
    engine = child()
    engine.load_adapter('a', tmp_path)
    engine.load_adapter('b', tmp_path)
    engine.unload_adapter('b')
    with pytest.raises(ModelError):
        engine.load_adapter('c', tmp_path / 'nothing')
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: engine.stats()['restarts'] == 1 and engine.ready)
    assert engine.adapters == ('a',)
    assert said(engine.stream(Request('r', (65,), Sampling(stop_ids=(END,)), 'a'))) == 'a: A'


# ------------------------------------------------------------------------------------------------------------ death
def test_kill_9_fails_open_requests_honestly_and_the_next_life_answers(child):
    engine = child(step_seconds=0.02)
    streams = [engine.stream(asked('x' * 500, f'{i}')) for i in range(3)]
    for stream in streams:
        next(stream)
    pid = engine.pid
    os.kill(pid, signal.SIGKILL)
    for stream in streams:
        with pytest.raises(UnavailableError, match='SIGKILL'):
            list(stream)
    assert not engine.ready or engine.pid != pid
    until(lambda: engine.ready)
    assert said(engine.stream(asked('back'))) == 'back'
    stats = engine.stats()
    assert stats['accepted'] == stats['finished'] + stats['failed'] == 4
    assert stats['restarts'] == 1


def test_an_engine_that_exits_by_itself_is_started_again(child):
    engine = child(faults={'crash': ('crash', 1)})
    with pytest.raises(UnavailableError, match='exit code 13'):
        list(engine.stream(asked('crash')))
    with pytest.raises(UnavailableError):
        engine.stream(asked('too early'))
    until(lambda: engine.ready)
    assert said(engine.stream(asked('fine'))) == 'fine'


class Mute(FakeEngine):
    """Fails where the process asks for its figures, after some requests."""

    def stats(self):
        figures = super().stats()
        if figures['finished'] >= 2:
            raise RuntimeError('figures')
        return figures


def test_an_engine_that_cannot_be_heard_any_more_is_started_again():
    engine = ChildEngine(Recipe('tests.engines.test_child:Mute', {}))
    try:
        engine.wait(60)
        first = engine.pid
        for number in range(2):
            assert said(engine.stream(asked('hello', f'{number}')))
        until(lambda: engine.ready and engine.pid != first)
        assert said(engine.stream(asked('again')))
    finally:
        engine.close()


def test_an_engine_that_hangs_is_killed_and_started_again(child):
    engine = child(stall=2.0, faults={'hang': ('hang', 1)})
    with pytest.raises(UnavailableError, match='no step for 2 s'):
        list(engine.stream(asked('hang')))
    until(lambda: engine.ready)
    assert said(engine.stream(asked('fine'))) == 'fine'


def test_a_stopped_process_is_no_ready_engine(child, monkeypatch):
    monkeypatch.setattr('swift.engines.child.LATELY', 1.0)
    engine = child()
    os.kill(engine.pid, signal.SIGSTOP)
    until(lambda: not engine.ready)
    os.kill(engine.pid, signal.SIGCONT)
    until(lambda: engine.ready)
    assert engine.stats()['restarts'] == 0


def test_an_engine_that_cannot_be_opened_says_why_and_is_not_tried_again():
    engine = ChildEngine(Recipe(FAKE, {'load_error': 'no such model'}))
    with pytest.raises(ModelError, match='no such model'):
        engine.wait(60)
    engine.close()
    assert engine.stats()['starts'] == 1


def test_waiting_has_a_limit():
    engine = ChildEngine(Recipe(FAKE, {'load_seconds': 60}))
    with pytest.raises(HangError):
        engine.wait(0.1)
    pid = engine.pid
    engine.close()
    assert pid is None or not alive(pid)


def test_a_closed_engine_leaves_no_process(child):
    engine = child(step_seconds=0.02)
    pid, stream = engine.pid, engine.stream(asked('x' * 100))
    engine.close()
    with pytest.raises(SwiftError, match='closed'):
        list(stream)
    assert not alive(pid)
    with pytest.raises(SwiftError, match='closed'):
        engine.stream(asked('x'))


@pytest.mark.parametrize('fault', ['crash', 'hang'])
def test_no_engine_outlives_a_server_that_was_killed(fault):
    code = (
        'import sys, time\n'
        'from swift.engines.child import ChildEngine, Recipe\n'
        'from swift.core.types import Request, Sampling\n'
        f'engine = ChildEngine(Recipe("{FAKE}", {{"faults": {{"hang": ("hang", 1)}}}}))\n'
        'engine.wait(60)\n'
        f'if "{fault}" == "hang": engine.stream(Request("r", tuple(b"hang"), Sampling()))\n'
        'time.sleep(0.5)\n'
        'print(engine.pid, flush=True)\n'
        'time.sleep(600)\n'
    )
    server = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    pid = int(server.stdout.readline())
    assert alive(pid)
    server.kill()
    server.wait()
    server.stdout.close()
    until(lambda: not alive(pid), 10)
