"""The engine may die and the server may be told to end: nobody is left waiting, and health tells the truth."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from swift.core.errors import ConfigError
from swift.engines.child import ChildEngine, Recipe
from swift.engines.fake import FakeEngine
from swift.serve.place import Place, bind
from tests.serve.running import CANARY, running, until


@pytest.fixture
def child():
    made = []

    def open_child(stall=60.0, **arguments):
        made.append(ChildEngine(Recipe('swift.engines.fake:FakeEngine', arguments), stall=stall))
        made[-1].wait(60)
        return made[-1]

    yield open_child
    for each in made:
        each.close()


def events(text):
    return [json.loads(line[6:]) for line in text.split('\n\n') if line.startswith('data: {')]


@pytest.mark.parametrize('stream', [False, True])
def test_kill_9_of_the_engine_fails_what_is_open_and_the_server_goes_on(child, stream):
    engine = child(step_seconds=0.01)
    with running(engine=engine) as server:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(server.chat('x' * 1000, stream=stream))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        until(lambda: engine.stats().get('running') == 4)
        os.kill(engine.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        for status, answer, headers in found:
            error = events(answer)[-1] if stream else answer
            assert status == (200 if stream else 503)
            assert error['error']['code'] == 'engine_unavailable'
            assert stream or headers['retry-after']
        until(lambda: server.get('/ready')[0] == 200)
        server.is_well()


def test_while_the_engine_is_away_the_server_is_not_ready_and_says_when_to_come_back(child):
    engine = child(faults={'crash': ('crash', 1)}, load_seconds=1.0)
    with running(engine=engine) as server:
        assert server.chat('crash')[0] == 503
        assert server.get('/ready')[0] == server.get('/health')[0] == 503
        assert server.get('/live')[0] == 200
        status, _, headers = server.chat('Hi')
        assert status == 503 and int(headers['retry-after']) >= 1
        until(lambda: server.get('/ready')[0] == 200)
        server.is_well()


def test_an_engine_that_hangs_is_not_ready_and_then_started_again(child, monkeypatch):
    monkeypatch.setattr('swift.engines.child.LATELY', 1.5)
    engine = child(stall=3.0, faults={'hang': ('hang', 1)})
    with running(engine=engine) as server:
        stuck = threading.Thread(target=server.chat, args=('hang',))
        stuck.start()
        until(lambda: server.get('/ready')[0] == 503)
        stuck.join()
        until(lambda: server.get('/ready')[0] == 200)
        server.is_well()


@pytest.mark.parametrize('fault', ['nan', 'error'])
@pytest.mark.parametrize('step', [1, 3])
@pytest.mark.parametrize('stream', [False, True])
def test_a_request_that_the_engine_cannot_answer_fails_alone(fault, step, stream):
    with running(engine=FakeEngine(faults={'bad': (fault, step)}, step_seconds=0.005)) as server:
        good = []
        thread = threading.Thread(target=lambda: good.append(server.chat(CANARY)))
        thread.start()
        status, answer, _ = server.chat('bad ' * 5, stream=stream)
        thread.join()
        if stream and step > 1:
            assert status == 200 and events(answer)[-1]['error']['code'] == 'engine_error'
        else:
            assert (status, answer['error']['code']) == (503, 'engine_error')
        assert good[0][1]['choices'][0]['message']['content'] == CANARY
        server.is_well()


# ---------------------------------------------------------------------------------------------------------------- end
def test_open_streams_end_well_after_sigterm_and_nothing_new_is_begun():
    with running(engine=FakeEngine(step_seconds=0.01), drain=60) as server:
        found = []
        threads = [
            threading.Thread(target=lambda i=i: found.append(server.chat(f'{i} ' + 'x' * 100, stream=bool(i % 2))))
            for i in range(32)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.engine.stats()['accepted'] == 32)
        server.server.handle_exit(signal.SIGTERM, None)
        until(lambda: server.get('/ready')[0] == 503)
        status, answer, headers = server.chat('too late')
        assert (status, answer['error']['code']) == (503, 'draining') and headers['retry-after']
        assert server.get('/live')[0] == 200
        for thread in threads:
            thread.join()
        assert [status for status, *_ in found] == [200] * 32
        for _, answer, _ in found:
            if isinstance(answer, str):
                assert answer.endswith('data: [DONE]\n\n') and 'error' not in events(answer)[-1]
        server.thread.join(30)
        assert not server.thread.is_alive()


def test_what_does_not_end_in_time_is_cut_off_with_an_honest_error():
    with running(engine=FakeEngine(step_seconds=0.05), drain=0.3) as server:
        found = []
        threads = [
            threading.Thread(target=lambda s=s: found.append((s, server.chat('x' * 2000, stream=s))))
            for s in (False, True)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.engine.stats()['running'] == 2)
        time.sleep(0.2)
        server.server.handle_exit(signal.SIGTERM, None)
        for thread in threads:
            thread.join()
        server.thread.join(30)
        assert not server.thread.is_alive()
        for stream, (status, answer, _) in found:
            error = events(answer)[-1] if stream else answer
            assert status == (200 if stream else 503)
            assert error['error']['code'] == 'aborted'


def test_an_address_in_use_is_an_error_of_the_configuration():
    with running() as server, pytest.raises(ConfigError, match='in use') as caught:
        bind(Place(port=server.port))
    assert caught.value.exit_code == 2
