"""Clients that mean harm, or are broken: whatever they send, the next good question is answered to the byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time

import pytest

from swift.engines.fake import FakeEngine
from swift.serve.bounds import MIB
from swift.serve.connection import GRACE
from swift.serve.gate import Gate
from tests.serve.running import CANARY, running, small, until

GOOD = json.dumps({'messages': [{'role': 'user', 'content': 'Hi'}]}).encode()
LONG = json.dumps({'messages': [{'role': 'user', 'content': 'x' * 2000}], 'stream': True}).encode()
FAST = small(head_seconds=0.5, body_seconds=0.5, write_seconds=0.5, idle_seconds=1)


@pytest.fixture(scope='module')
def server():
    with running(bounds=FAST) as made:
        yield made
        made.is_well()


def answered(connection) -> bytes:
    """All that the server says until it closes."""
    connection.settimeout(20)
    data = b''
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(1 << 16):
            data += more
    connection.close()
    return data


def status_of(data: bytes) -> int:
    return int(data.split(b' ', 2)[1])


# ------------------------------------------------------------------------------------------------------------- bodies
@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'{',
        b'[]',
        b'null',
        b'"text"',
        b'\xff\xfe',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": Infinity}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "metadata": {"a": 1e999}}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b'9' * 5000 + b'}',
        b'{"messages": [{"role": "user", "content": "x"}], "n": 1, "n": 2}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x", "\\udfff": 1}]}',
        b'{"a":' * 5000 + b'1' + b'}' * 5000,
        b'[' * 100_000,
        b'[' * 40 + b']' * 40,
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [' + b'[' * 40 + b']' * 40 + b']}',
    ],
    ids=range(18),
)
@pytest.mark.parametrize('path', ['/v1/chat/completions', '/v1/completions'])
def test_bodies_that_are_no_json_or_not_strict_are_400(server, body, path):
    status, answer, _ = server.post(path, body)
    assert status == 400, answer
    assert answer['error']['type'] == 'invalid_request_error'


def test_a_body_of_60_mb_is_refused_without_being_kept(server):
    chunk = b'x' * MIB
    before = _memory()
    with contextlib.closing(server.raw()) as connection:
        head = b'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n'
        connection.sendall(head + b'transfer-encoding: chunked\r\n\r\n')
        with contextlib.suppress(ConnectionError):
            for _ in range(60):
                connection.sendall(b'%x\r\n' % len(chunk) + chunk + b'\r\n')
            connection.sendall(b'0\r\n\r\n')
        assert status_of(answered(connection)) == 413
    assert _memory() - before < 40 * MIB
    status, answer, _ = server.post('/v1/chat/completions', b'{"messages": "' + b'x' * (5 * MIB) + b'"}')
    assert (status, answer['error']['code']) == (413, 'body_too_large')


def _memory() -> int:
    with open(f'/proc/{os.getpid()}/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


# --------------------------------------------------------------------------------------------------------------- http
@pytest.mark.parametrize(
    'data',
    [
        b'GARBAGE\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00',
        b'GET / HTTP/9.9\r\n\r\n',
        b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n',
        b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello',
        b'POST /live HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
        b'GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n',
        b'GET /' + b'a' * 20_000 + b' HTTP/1.1\r\nhost: x\r\n\r\n',
        b'GET /health HTTP/1.1\r\nhost: x\r\nbig: ' + b'a' * 20_000 + b'\r\n\r\n',
        b'GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n' + b'a: b\r\n' * 80 + b'\r\n',
    ],
    ids=range(10),
)
def test_what_is_no_http_is_refused_in_the_shape_of_every_error(server, data):
    said = answered(server.raw(data))
    assert 400 <= status_of(said) < 500
    assert json.loads(said.partition(b'\r\n\r\n')[2])['error']['message']


def test_heads_and_bodies_that_do_not_come_are_not_waited_for(server):
    assert status_of(answered(server.raw(b'POST /v1/chat/comp'))) == 408
    assert status_of(answered(server.raw())) == 408
    assert status_of(answered(server.raw(server.request(GOOD)[:-5]))) == 408


def test_a_head_that_trickles_does_not_hold_its_connection(server):
    connection = server.raw()
    with pytest.raises(OSError):
        for _ in range(100):
            connection.sendall(b'G')
            time.sleep(0.05)
    connection.close()


def test_a_client_that_does_not_read_is_let_go(server):
    body = json.dumps({'prompt': ['y' * 4000] * 200, 'max_tokens': 90, 'stream': True, 'logprobs': 5}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(('127.0.0.1', server.port))
    connection.sendall(server.request(body, '/v1/completions'))
    until(lambda: server.engine.stats()['open'] > 0)
    until(lambda: not server.house.open)
    connection.close()
    until(lambda: server.engine.stats()['open'] == 0)


def test_requests_one_after_the_other_on_one_connection_are_answered_in_order(server):
    connection = server.raw(server.request(GOOD) * 2 + server.request(GOOD, headers='connection: close\r\n'))
    said = answered(connection)
    assert said.count(b'HTTP/1.1 200') == 3
    assert said.count(b'"content":"Hi"') == 3


def test_what_is_written_is_sent_at_once(server):
    connection = server.raw()
    until(lambda: server.server.server_state.connections)
    for each in list(server.server.server_state.connections):
        assert each.transport.get_extra_info('socket').getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connection.close()


def test_idle_connections_make_room_for_those_that_ask():
    with running(bounds=small(connections=5, head_seconds=60)) as server:
        held = [server.raw(b'POST /v1' if i % 2 else server.request(GOOD)) for i in range(5)]
        until(lambda: server.server.server_state.total_requests == 3)
        time.sleep(GRACE)
        for _ in range(20):
            assert server.chat('Hi')[0] == 200
        assert answered(held[0]).startswith(b'HTTP/1.1 200')  # the end has come
        for each in held:
            each.close()
        server.is_well()


def test_more_connections_than_may_be_are_told_to_come_back_where_all_are_busy():
    with running(engine=FakeEngine(step_seconds=0.02), bounds=small(connections=5)) as server:
        body = json.dumps({'messages': [{'role': 'user', 'content': 'x' * 60}]}).encode()
        held = [server.raw(server.request(body, headers='connection: close\r\n')) for _ in range(5)]
        until(lambda: server.house.gate.running == 5)
        said = answered(server.raw())
        assert status_of(said) == 503 and b'retry-after' in said
        assert all(answered(each).startswith(b'HTTP/1.1 200') for each in held)
        server.is_well()


@pytest.mark.parametrize('method', ['PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'GET'])
def test_other_methods_are_405_with_those_that_are(server, method):
    status, answer, headers = server.ask(method, '/v1/chat/completions', None, key=None, headers={})
    assert (status, headers['allow']) == (405, 'POST')
    assert answer['error']['code'] == 'method_not_allowed'


@pytest.mark.parametrize(
    'path', ['/', '//', '/v1', '/v1/', '/v1/models/../../etc/passwd', '/%00', '/v1/models/%ff', '/docs']
)
def test_paths_that_lead_nowhere_are_404(server, path):
    assert server.get(path)[0] == 404


# ------------------------------------------------------------------------------------------------------- disconnects
def test_a_client_that_leaves_frees_its_place_within_a_quarter_of_a_second():
    with running(engine=FakeEngine(step_seconds=0.01)) as server:
        for body in (LONG, json.dumps({**json.loads(LONG), 'stream': False}).encode()):
            connection = server.raw(server.request(body))
            until(lambda: server.engine.stats()['running'] > 0)
            time.sleep(0.1)
            connection.close()
            left = time.monotonic()
            until(lambda: server.engine.stats()['open'] == 0)
            assert time.monotonic() - left < 2.0  # 0.25 s on a machine of its own
        assert server.engine.stats()['aborted'] == 2
        server.is_well()


def test_64_streams_of_which_a_third_leave_leak_nothing_and_the_others_are_exact():
    draw, found = random.Random(7), {}
    engine = FakeEngine(step_seconds=0.002, max_batch_size=16)
    with running(engine=engine) as server:

        def stays(i):
            found[i] = server.chat(f'{i} ' + '你好' * draw.randint(1, 40))[1]['choices'][0]['message']['content']

        def leaves(i):
            connection = server.raw(server.request(LONG))
            time.sleep(draw.random() * 0.5)
            connection.close()

        texts = random.Random(3)
        threads = [threading.Thread(target=leaves if texts.random() < 0.33 else stays, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) > 30
        for i, text in found.items():
            assert text.startswith(f'{i} ') and set(text.split(' ')[1]) <= {'你', '好'}
        server.is_well()


# ------------------------------------------------------------------------------------------------------------ overload
def test_under_ten_times_its_load_the_server_answers_some_and_refuses_the_rest_at_once():
    engine = FakeEngine(step_seconds=0.005, max_batch_size=4)
    with running(engine=engine, bounds=small(queue=8), gate=Gate(4, 8)) as server:
        results, lock = [], threading.Lock()

        def ask():
            began = time.monotonic()
            status, answer, headers = server.chat(CANARY)
            with lock:
                results.append((status, time.monotonic() - began, headers.get('retry-after'), answer))

        threads = [threading.Thread(target=ask) for _ in range(120)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [status for status, *_ in results]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 12
        assert all(again for status, _, again, _ in results if status == 429)
        answers = {answer['choices'][0]['message']['content'] for status, _, _, answer in results if status == 200}
        assert answers == {CANARY}
        server.is_well()
