"""Keys, limits of every kind, admin routes, moderation and the logs, as clients meet them."""

from __future__ import annotations

import hashlib
import json
import logging
import threading

import pytest

from swift.core.errors import ConfigError
from swift.engines.fake import FakeEngine
from swift.serve import auth
from swift.serve.audit import Audit, verify
from swift.serve.gate import Gate
from swift.serve.ledger import Allowance, Ledger
from swift.serve.moderation import Words
from tests.serve.running import CANARY, running, small, until

ALICE, BOB = auth.key('alice-secret', id='alice'), auth.key('bob-secret', id='bob', admin=True)


# ------------------------------------------------------------------------------------------------------------- keys
@pytest.mark.parametrize('path', ['/v1/models', '/v1/limits', '/metrics', '/openapi.json', '/nothing', '/docs'])
@pytest.mark.parametrize('key', [None, 'wrong', ''])
def test_every_route_but_those_of_health_asks_for_a_key(path, key):
    with running(keys=[ALICE]) as server:
        status, answer, headers = server.get(path, key=key)
        assert (status, answer['error']['code']) == (401, 'invalid_api_key')
        assert headers['www-authenticate'] == 'Bearer'
        assert server.chat('Hi', key=key)[0] == 401
        for path in ('/health', '/ready', '/live', '/version', '/ping'):
            assert server.get(path)[0] == 200


def test_keys_open_and_their_ids_are_what_is_seen():
    with running(keys=[ALICE, BOB]) as server:
        for key, id in (('alice-secret', 'alice'), ('bob-secret', 'bob')):
            assert server.chat('Hi', key=key)[0] == 200
            assert server.get('/v1/limits', key=key)[1]['key']['id'] == id


def test_without_keys_only_this_machine_is_served_and_under_its_own_name():
    with running() as server:
        for host in ('localhost', '127.0.0.1:8000', '[::1]:8000', 'a.localhost'):
            assert server.get('/v1/models', headers={'host': host})[0] == 200
        for host in ('evil.example', 'evil.example:8000', 'localhost.evil.example'):
            assert server.get('/v1/models', headers={'host': host})[0] == 403


def test_pages_of_other_sites_cannot_send_a_request_without_asking_first():
    with running() as server:
        for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
            body = json.dumps({'messages': [{'role': 'user', 'content': 'x'}]}).encode()
            assert server.post('/v1/chat/completions', body, headers={'content-type': kind})[0] == 415
        status, _, headers = server.ask(
            'OPTIONS', '/v1/chat/completions', None, key=None, headers={'origin': 'http://x'}
        )
        assert status == 405
        assert not [name for name in headers if name.lower().startswith('access-control')]


def test_keys_of_a_file_have_ids_and_limits_of_their_own(tmp_path):
    path = tmp_path / 'keys.yaml'
    digest = hashlib.sha256(b'hidden').hexdigest()
    path.write_text(f'ann: {{key: "plain", requests_per_minute: 3}}\nben: {{sha256: {digest}, admin: true}}\n')
    ann, ben = auth.read_file(path, Allowance(requests_per_minute=9, parallel=2))
    assert (ann.id, ann.allowance) == ('ann', Allowance(requests_per_minute=3, parallel=2))
    assert ben.admin and ben.allowance.requests_per_minute == 9
    keys = auth.Keys([ann, ben])
    assert keys.find('Bearer hidden').id == 'ben'
    assert 'plain' not in repr(ann)


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        ('', 'expected a line'),
        ('- a', 'expected a line'),
        ('a: {}', 'give key or sha256'),
        ('a: {key: x, sha256: y}', 'one of them'),
        ('a: {sha256: abc}', '64 hexadecimal'),
        ('a: {key: x, parallell: 3}', 'did you mean parallel'),
        ('a: {key: x, parallel: 0}', 'parallel must be'),
        ('a: {key: 5}', 'put quotes'),
        ('a: {key: secret-text', 'cannot be read'),
    ],
)
def test_mistakes_in_a_file_of_keys_are_named_and_keys_are_not(tmp_path, text, problem):
    path = tmp_path / 'keys.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        auth.read_file(path, Allowance())
    assert 'secret-text' not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ limits
def test_a_limit_of_a_key_is_429_with_the_time_to_come_back_and_shows_in_limits():
    key = auth.key('k', id='k', allowance=Allowance(requests_per_minute=2, tokens_per_day=1000))
    with running(keys=[key], ledger=Ledger(clock=lambda: 30.0)) as server:
        for _ in range(2):
            assert server.chat('Hi', key='k')[0] == 200
        status, answer, headers = server.chat('Hi', key='k')
        assert (status, answer['error']['code'], headers['retry-after']) == (429, 'requests_per_minute_exceeded', '30')
        until(lambda: server.get('/v1/limits', key='k')[1]['key']['used']['day']['tokens'] == 2 * (2 + 3))
        found = server.get('/v1/limits', key='k')[1]
        assert found['key']['used']['minute']['requests'] == 2
        assert found['server']['queue'] == 256 and found['fields']['messages'] == 2048


def test_tokens_of_an_answer_that_was_aborted_count_too():
    with running(engine=FakeEngine(step_seconds=0.01), ledger=Ledger()) as server:
        body = json.dumps({'messages': [{'role': 'user', 'content': 'x' * 1000}], 'stream': True}).encode()
        connection = server.raw(server.request(body))
        while b'content":"x"' not in connection.recv(4096):
            pass
        connection.close()
        until(lambda: server.house.ledger.used('anonymous')['day']['tokens'] > 1000)
        server.is_well()


def test_quotas_are_there_after_a_restart(tmp_path):
    key = auth.key('k', id='k', allowance=Allowance(requests_per_day=3))
    answers = []
    for _ in range(2):
        with running(keys=[key], ledger=Ledger(tmp_path / 'usage.sqlite3')) as server:
            answers += [server.chat('Hi', key='k')[0] for _ in range(2)]
    assert answers == [200, 200, 200, 429]


def test_a_key_may_have_so_many_requests_open():
    key = auth.key('k', id='k', allowance=Allowance(parallel=1))
    with running(engine=FakeEngine(step_seconds=0.02), keys=[key]) as server:
        slow = threading.Thread(target=server.chat, args=('x' * 100,), kwargs={'key': 'k'})
        slow.start()
        until(lambda: server.house.gate.running == 1)
        assert server.chat('Hi', key='k')[1]['error']['code'] == 'parallel_exceeded'
        slow.join()
        assert server.chat('Hi', key='k')[0] == 200


def test_a_full_queue_is_429_at_once():
    engine = FakeEngine(step_seconds=0.05)
    with running(engine=engine, bounds=small(queue=2), gate=Gate(1, 2)) as server:
        waiting = [threading.Thread(target=server.chat, args=('x' * 20,)) for _ in range(3)]
        for thread in waiting:
            thread.start()
        until(lambda: server.house.gate.waiting == 2)
        for body in (b'{', b'{"messages": [{"role": "user", "content": "Hi"}]}'):  # it is not read
            status, answer, headers = server.post('/v1/chat/completions', body)
            assert (status, answer['error']['code']) == (429, 'queue_full')
            assert int(headers['retry-after']) >= 1
        assert server.get('/v1/models')[0] == 200
        assert server.post('/v1/nothing', b'{')[0] == 404
        for thread in waiting:
            thread.join()
        server.is_well()


def test_a_fault_of_ours_is_told_as_an_error_and_the_next_request_is_answered(monkeypatch):
    with running() as server:
        with monkeypatch.context() as broken:
            broken.setattr(server.house.chat, 'request', lambda *_, **__: 1 / 0)
            status, answer, _ = server.chat('Hi')
            assert (status, answer['error']['code'], answer['error']['type']) == (
                500,
                'internal_error',
                'internal_error',
            )
            status, answer, _ = server.post(
                '/v1/messages', {'max_tokens': 2, 'messages': [{'role': 'user', 'content': 'Hi'}], 'model': 'fake'}
            )
            assert (status, answer['error']['type']) == (500, 'api_error')
        server.is_well()


def test_a_queue_that_takes_too_long_is_429_and_says_how_long():
    engine = FakeEngine(step_seconds=0.05)
    with running(engine=engine, bounds=small(queue_seconds=3.0), gate=Gate(1, 256, 3.0)) as server:
        waiting = [threading.Thread(target=server.chat, args=('x' * 40,)) for _ in range(2)]
        waiting[0].start()
        until(lambda: server.house.gate.running == 1)
        waiting[1].start()
        until(lambda: server.house.gate.waiting == 1)
        status, answer, headers = server.chat('Hi')
        assert (status, answer['error']['code']) == (429, 'queue_full')
        assert int(headers['retry-after']) >= 4
        assert server.get('/v1/limits')[1]['server']['queue_seconds'] == 3.0
        assert '\nswift_queue_wait_seconds ' in server.get('/metrics')[1]
        for thread in waiting:
            thread.join()
        assert server.house.gate.wait() == 0
        server.is_well()


def test_what_takes_too_long_is_told_so_and_aborted():
    with running(engine=FakeEngine(step_seconds=0.05), bounds=small(deadline=0.5)) as server:
        status, answer, headers = server.chat('x' * 500)
        assert (status, answer['error']['code']) == (503, 'deadline')
        assert 'retry-after' in headers
        body = json.dumps({'messages': [{'role': 'user', 'content': 'x' * 500}], 'stream': True}).encode()
        status, text, _ = server.post('/v1/chat/completions', body)
        assert status == 200
        events = [line for line in text.split('\n\n') if line]
        assert json.loads(events[-2].removeprefix('data: '))['error']['code'] == 'deadline'
        assert events[-1] == 'data: [DONE]'
        until(lambda: server.engine.stats()['open'] == 0)
        assert server.engine.stats()['aborted'] == 2


# ---------------------------------------------------------------------------------------------------------- adapters
def test_an_admin_puts_adapters_on_and_takes_them_off_while_the_server_runs(tmp_path):
    with running(keys=[ALICE, BOB]) as server:
        load = {'lora_name': 'shop', 'lora_path': str(tmp_path)}
        assert server.post('/v1/load_lora_adapter', load, key='alice-secret')[0] == 403
        assert server.chat('Hi', key='alice-secret', model='shop')[0] == 404
        assert server.post('/v1/load_lora_adapter', load, key='bob-secret')[0] == 200
        status, answer, _ = server.chat('Hi', key='alice-secret', model='shop')
        assert (status, answer['model'], answer['choices'][0]['message']['content']) == (200, 'shop', 'shop: Hi')
        assert server.chat('Hi', key='alice-secret')[1]['choices'][0]['message']['content'] == 'Hi'
        names = [each['id'] for each in server.get('/v1/models', key='alice-secret')[1]['data']]
        assert names == ['fake', 'shop']
        assert server.post('/v1/load_lora_adapter', load, key='bob-secret')[0] == 400
        assert server.post('/v1/unload_lora_adapter', {'lora_name': 'shop'}, key='bob-secret')[0] == 200
        assert server.chat('Hi', key='alice-secret', model='shop')[0] == 404
        for wrong in ({'lora_path': 'relative'}, {'lora_path': str(tmp_path / 'no')}, {'lora_name': '../x'}):
            assert server.post('/v1/load_lora_adapter', {**load, **wrong}, key='bob-secret')[0] == 400
        assert server.post('/v1/unload_lora_adapter', {'lora_name': 'fake'}, key='bob-secret')[0] == 404


# -------------------------------------------------------------------------------------------------------- moderation
def test_words_are_neither_asked_nor_answered_with_and_without_stream(monkeypatch):
    with running(rules=[Words(['forbidden'])]) as server:
        status, answer, _ = server.chat('this is FORBIDDEN')
        assert (status, answer['error']['code'], answer['error']['param']) == (400, 'content_filter', 'messages')
        monkeypatch.setattr('swift.serve.words.passes', lambda text, rules: True)  # the model says it by itself
        status, answer, _ = server.chat('a forbidden word', logprobs=True)
        choice = answer['choices'][0]
        assert (choice['message']['content'], choice['finish_reason']) == ('a ', 'content_filter')
        assert ''.join(each['token'] for each in choice['logprobs']['content']) == 'a '
        status, text, _ = server.chat('a forbidden word', stream=True)
        chunks = [json.loads(line[6:]) for line in text.split('\n\n') if line.startswith('data: {')]
        assert ''.join(chunk['choices'][0]['delta'].get('content', '') for chunk in chunks) == 'a '
        assert chunks[-1]['choices'][0]['finish_reason'] == 'content_filter'
        assert server.chat('a forest')[1]['choices'][0]['message']['content'] == 'a forest'
        assert server.post('/v1/completions', {'prompt': 'forbidden'})[1]['choices'][0]['text'] == ''
        numbers = server.get('/metrics')[1]
        assert 'swift_moderated_total{side="output"} 3' in numbers
        server.is_well()


# -------------------------------------------------------------------------------------------------------------- logs
def test_logs_tell_who_and_how_much_and_never_what(tmp_path, caplog):
    audit = Audit(tmp_path / 'audit.jsonl')
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger('swift.access')
    logger.addHandler(caplog.handler)
    with running(keys=[ALICE], audit=audit) as server:
        assert server.chat('my private question', key='alice-secret')[0] == 200
        assert server.chat('another', key='alice-secret', temperature=-1)[0] == 400
        assert server.chat('a third', key='wrong')[0] == 401
    logger.removeHandler(caplog.handler)
    assert verify(tmp_path / 'audit.jsonl').count == 3
    entries = [json.loads(line) for line in (tmp_path / 'audit.jsonl').read_text().splitlines()]
    assert [(entry['key'], entry['status'], entry['code']) for entry in entries] == [
        ('alice', 200, None),
        ('alice', 400, 'invalid_value'),
        ('anonymous', 401, 'invalid_api_key'),
    ]
    assert entries[0]['prompt_tokens'] == len('my private question')
    for text in (caplog.text, (tmp_path / 'audit.jsonl').read_text()):
        assert 'alice' in text
        for hidden in ('private', 'another', 'third', 'alice-secret', 'wrong'):
            assert hidden not in text


def test_a_server_whose_audit_log_cannot_be_written_answers_nothing_more():
    with running() as server:
        server.house.audit_failed(OSError(28, 'full'))
        assert server.chat('Hi')[0] == 503
        assert server.get('/ready')[0] == 503
        assert server.get('/live')[0] == 200


def test_metrics_are_read_by_prometheus_and_count():
    with running() as server:
        server.chat(CANARY)
        server.chat(CANARY, temperature=-1)
        server.get('/some/unknown/path')
        text = server.get('/metrics')[1]
    assert 'swift_requests_total{route="/v1/chat/completions",status="200"} 1' in text
    assert 'swift_requests_total{route="/v1/chat/completions",status="400"} 1' in text
    assert 'swift_requests_total{route="other",status="404"} 1' in text
    assert f'swift_tokens_total{{kind="prompt"}} {len(CANARY.encode())}' in text
    for line in text.splitlines():
        assert line.startswith('#') or float(line.rpartition(' ')[2]) >= 0
    assert 'swift_ready 1' in text and 'swift_engine_open 0' in text
