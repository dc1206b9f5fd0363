"""The page over a server elsewhere: what is passed on, what is not, and that leaving is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading

import pytest

from swift.commands import app as verb
from swift.commands import configs
from swift.core.errors import ConfigError
from swift.serve import auth
from tests.serve.running import Running, house, running, until


@contextlib.contextmanager
def page_over(url, *words):
    """``swift app --base_url`` on a free port."""
    cfg = configs.resolve('app', ['--base_url', url, '--server_port', '0', *words])
    with verb.opened(cfg) as (server, listener):
        thread = threading.Thread(target=lambda: asyncio.run(server.run_on(listener)), daemon=True)
        thread.start()
        until(lambda: server.started)
        yield Running(server._house, server, listener.getsockname()[1], thread)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        assert not thread.is_alive()


def test_the_page_and_its_questions_come_through():
    with running() as server, page_over(server.url) as page:
        assert 'app/main.js' in page.get('/')[1]
        assert page.get('/v1/models')[1]['data'][0]['id'] == 'fake'
        body = {'model': 'fake', 'messages': [{'role': 'user', 'content': 'hello'}], 'stream': True}
        status, text, headers = page.post('/v1/chat/completions', body)
        assert status == 200 and headers['content-type'].startswith('text/event-stream')
        events = [json.loads(line[6:]) for line in text.split('\n') if line.startswith('data: {')]
        assert ''.join(event['choices'][0]['delta'].get('content', '') for event in events) == 'hello'


def test_refusals_come_through_and_other_paths_do_not():
    with running() as server, page_over(server.url) as page:
        status, answer, _ = page.post('/v1/chat/completions', {'model': 'none', 'messages': []})
        assert status == 400 and answer['error']['message']
        for path in ('/metrics', '/v1/limits', '/v1/load_lora_adapter'):
            assert page.get(path)[0] == 404
        assert page.get('/v1/models', headers={'host': 'evil.example'})[0] == 403
        plain = page.post('/v1/chat/completions', b'{}', headers={'content-type': 'text/plain'})
        assert plain[0] == 415


def test_a_key_is_that_of_the_page_or_else_that_of_the_flag():
    with running(house(keys=[auth.key('right')])) as server:
        with page_over(server.url) as page:
            assert page.get('/v1/models')[0] == 401
            assert page.get('/v1/models', key='right')[0] == 200
        with page_over(server.url, '--api_key', 'right') as page:
            assert page.get('/v1/models')[0] == 200


def test_leaving_is_passed_on():
    with running() as server, page_over(server.url) as page:
        server.engine.step_seconds = 0.02
        body = {'messages': [{'role': 'user', 'content': 'x' * 2000}], 'stream': True}
        connection = page.raw(page.request(json.dumps(body).encode()))
        assert connection.recv(100)
        connection.close()
        until(lambda: server.engine.stats()['aborted'] == 1)
        server.engine.step_seconds = 0.0
        server.is_well()


def test_a_server_that_is_not_there_is_an_honest_503():
    with page_over('http://127.0.0.1:9/v1') as page:
        status, answer, headers = page.get('/v1/models')
        assert (status, answer['error']['code'], headers['retry-after']) == (503, 'unreachable', '5')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--base_url', 'http://a/v1', '--model', 'b'], 'one of them'),
        (['--base_url', 'a:8000'], 'expected an address'),
        (['--base_url', 'http://a/v1', '--server_name', '0.0.0.0', '--api_key', 'b'], 'this machine only'),
        (['--model', 'b', '--server_name', '0.0.0.0'], '--server_name 0.0.0.0: others can reach it'),
        ([], '--model is missing'),
    ],
)
def test_what_cannot_work_is_said(words, said):
    with pytest.raises(ConfigError, match=said):
        configs.resolve('app', words)
