"""The end of a server, of its engine and of what it leans on, seen from outside: nobody is left waiting or misled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.proof.crowd import ask, together
from tests.proof.deployed import ROOT, children, deployed, gone, until
from tests.proof.worlds import SMOLLM2, question, world

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    return [*world(tmp_path_factory.mktemp('adapters')).flags, '--log_interval', '-1']


def meanwhile(server, bodies, act):
    """What clients hear while ``act`` runs, a second after they came."""
    found = []
    clients = threading.Thread(target=lambda: found.extend(together(*(ask(server.port, body) for body in bodies))))
    clients.start()
    until(lambda: server.numbers()['swift_engine_open'] == len(bodies))
    time.sleep(1)
    act()
    clients.join()
    return found


def test_32_streams_end_well_after_sigterm_and_no_process_is_left(flags):
    with deployed(*flags, '--drain', '300') as server:
        below = children(server.process.pid)
        began = time.monotonic()
        found = meanwhile(server, [question(i) for i in range(32)], server.process.terminate)
        assert all(heard.whole for heard in found)
        answered = time.monotonic()
        assert server.process.wait(60) == 0
        print(f'32 streams, {answered - began:.1f} s; ended {time.monotonic() - answered:.2f} s after the last of them')
        assert below and all(gone(pid) for pid in below)


def test_kill_9_of_the_engine_is_told_to_32_streams_and_the_next_engine_says_the_same(flags):
    with deployed(*flags) as server:
        canary = together(ask(server.port, question(2)))[0]
        assert canary.whole
        [engine] = children(server.process.pid)
        killed = []

        def kill():
            os.kill(engine, signal.SIGKILL)
            killed.append(time.monotonic())
            until(lambda: server.get('/ready').status_code == 503, 10)

        found = meanwhile(server, [question(i, max_tokens=400) for i in range(32)], kill)
        told = {heard.error['code'] for heard in found if not heard.whole}
        assert told == {'engine_unavailable'}
        until(lambda: server.get('/ready').status_code == 200, 120)
        print(f'ready again {time.monotonic() - killed[0]:.1f} s after kill -9')
        assert together(ask(server.port, question(2)))[0].text == canary.text
        assert server.numbers()['swift_engine_open'] == 0


def test_kill_9_of_the_server_leaves_no_process(flags):
    with deployed(*flags) as server:
        below = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until(lambda: all(gone(pid) for pid in below), 10)


# ------------------------------------------------------------------------------------------------------------- safety
def made(command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


@pytest.mark.skipif(shutil.which('openssl') is None, reason='there is no openssl')
def test_tls_is_spoken_with_the_right_files_and_wrong_ones_are_named_before_the_model_is_opened(tmp_path):
    cert, key, other = tmp_path / 'cert.pem', tmp_path / 'key.pem', tmp_path / 'other.pem'
    made(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, '-subj', '/CN=x'])
    made(['openssl', 'genrsa', '-out', other, '2048'])
    with deployed('--model', SMOLLM2, '--ssl_certfile', cert, '--ssl_keyfile', key) as server:
        assert server.post('/v1/completions', {'prompt': 'Hi', 'max_tokens': 2}).status_code == 200
    command = [sys.executable, '-m', 'swift.cli', 'deploy', '--model', SMOLLM2, '--ssl_certfile', cert]
    done = subprocess.run([*command, '--ssl_keyfile', other], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert 'the key belongs to another certificate' in done.stderr and 'Traceback' not in done.stderr


def test_keys_quotas_and_the_audit_log_from_outside(tmp_path):
    keys, audit, usage = tmp_path / 'keys.yml', tmp_path / 'audit.jsonl', tmp_path / 'usage.sqlite3'
    keys.write_text(
        'alice: {key: sk-alice, requests_per_day: 3}\nbob: {key: sk-bob, tokens_per_day: 30, parallel: 1}\n'
    )
    flags = ['--model', SMOLLM2, '--api_key_file', keys, '--audit_log', audit, '--usage_file', usage]
    asked = {'prompt': 'Once upon a time', 'max_tokens': 20, 'ignore_eos': True}

    def statuses(server, key, count):
        return [server.post('/v1/completions', asked, key=key).status_code for _ in range(count)]

    with deployed(*flags) as server:
        assert server.post('/v1/completions', asked).status_code == 401
        assert server.post('/v1/completions', asked, key='sk-eve').status_code == 401
        assert statuses(server, 'sk-alice', 2) == [200, 200]
        assert statuses(server, 'sk-bob', 3) == [200, 200, 429]  # 24 tokens an answer: it may end above
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with deployed(*flags) as server:
        assert statuses(server, 'sk-alice', 2) == [200, 429]
        refused = server.post('/v1/completions', asked, key='sk-bob')
        assert refused.status_code == 429 and refused.json()['error']['code'] == 'tokens_per_day_exceeded'
        assert int(refused.headers['retry-after']) > 0
        used = server.get('/v1/limits', key='sk-alice').json()['key']
        assert (used['id'], used['used']['day']) == ('alice', {'requests': 3, 'tokens': 72})
        assert server.end()[0] == 0
    verify = [sys.executable, '-m', 'swift.cli', 'audit', 'verify', str(audit), '--json']
    done = subprocess.run(verify, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert json.loads(done.stdout)['entries'] == 2 + 5 + 3
    lines = audit.read_text().splitlines(keepends=True)
    assert '"key": "alice"' in lines[2] and 'Once upon' not in ''.join(lines) and 'sk-' not in ''.join(lines)
    audit.write_text(''.join([*lines[:2], lines[2].replace('"alice"', '"bob"'), *lines[3:]]))
    done = subprocess.run(verify, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 74 and ':3: was changed' in done.stderr
