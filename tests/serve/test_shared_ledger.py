"""Usage in a real Redis: exact between replicas, never unmetered. ``test --with redis`` has it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time

import pytest

from swift.core.errors import ConfigError
from swift.serve import auth
from swift.serve.errors import ApiError
from swift.serve.ledger import Allowance
from swift.serve.shared_ledger import SharedLedger
from tests.serve.clock import DAY, Clock
from tests.serve.running import house, running, until

pytest.importorskip('redis')
pytestmark = pytest.mark.skipif(shutil.which('redis-server') is None, reason='there is no redis-server')

PASSWORD = 'correct-horse'


class Redis:
    """A server of its own on a free port, which can be paused, stopped and started."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]
        self.folder, self.url = folder, f'redis://:{PASSWORD}@127.0.0.1:{self.port}/0'
        self.start()

    def start(self):
        words = ['--port', str(self.port), '--bind', '127.0.0.1', '--requirepass', PASSWORD, '--appendonly', 'yes']
        self.process = subprocess.Popen(
            ['redis-server', *words, '--save', '', '--dir', str(self.folder)], stdout=subprocess.DEVNULL
        )
        until(self.answers)

    def answers(self):
        with socket.socket() as connection:
            return connection.connect_ex(('127.0.0.1', self.port)) == 0

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    redis = Redis(tmp_path_factory.mktemp('redis'))
    yield redis
    redis.stop()


@pytest.fixture
def ledger(server, request):
    """A ledger of an empty store."""
    made = SharedLedger(server.url, clock=Clock())
    made._store.flushall()
    yield made
    made.close()


def refused(ledger, allowance, key='a'):
    with pytest.raises(ApiError) as caught:
        ledger.take(key, allowance)
    return caught.value.status, caught.value.code, int(caught.value.headers['retry-after'])


def test_limits_of_requests_hold_for_their_window_and_key(ledger):
    clock, allowance = ledger._clock, Allowance(requests_per_minute=2)
    ledger.take('a', allowance)
    clock.now += 20
    ledger.take('a', allowance)
    assert refused(ledger, allowance) == (429, 'requests_per_minute_exceeded', 40)
    ledger.take('b', allowance)
    clock.now += 40
    ledger.take('a', allowance)
    assert ledger.used('a') == {'minute': {'requests': 1, 'tokens': 0}, 'day': {'requests': 3, 'tokens': 0}}


def test_a_limit_of_tokens_refuses_the_next_request(ledger):
    allowance = Allowance(tokens_per_day=100)
    ledger.take('a', allowance)
    ledger.count('a', 99)
    ledger.take('a', allowance)
    ledger.count('a', 50)
    assert refused(ledger, allowance) == (429, 'tokens_per_day_exceeded', DAY // 2)
    assert ledger.used('a')['day'] == {'requests': 2, 'tokens': 149}


def test_replicas_together_let_in_exactly_what_is_allowed(server, ledger):
    allowance, let_in = Allowance(requests_per_day=50), []
    replicas = [SharedLedger(server.url, clock=Clock()) for _ in range(3)]

    def ask(replica):
        for _ in range(15):
            try:
                replica.take('a', allowance)
                replica.count('a', 2)
                let_in.append(1)
            except ApiError:
                pass

    threads = [threading.Thread(target=ask, args=(replicas[i % 3],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 50
    assert replicas[0].used('a')['day'] == {'requests': 50, 'tokens': 100}
    for replica in replicas:
        replica.close()


def test_what_nobody_uses_is_forgotten(ledger):
    ledger.take('a', Allowance())
    assert 0 < ledger._store.ttl('swift:used:a') <= 2 * DAY
    assert ledger.used('b')['day'] == {'requests': 0, 'tokens': 0}
    assert ledger._store.keys('*') == [b'swift:used:a']


def test_windows_follow_the_clock_of_redis(server, ledger):
    replica = SharedLedger(server.url)
    replica.take('a', Allowance())
    assert abs(int(ledger._store.hget('swift:used:a', 'day')) - time.time() // DAY) <= 1
    replica.close()


def test_while_redis_is_away_nothing_is_let_in_and_nothing_is_forgotten(server, ledger):
    ledger.take('a', Allowance())
    server.stop()
    try:
        assert refused(ledger, Allowance())[:2] == (503, 'usage_unavailable')
        with pytest.raises(ApiError):
            ledger.count('a', 30)
        before = time.monotonic()
        assert refused(ledger, Allowance(), 'b')[0] == 503
        assert time.monotonic() - before < 0.5
    finally:
        server.start()
    until(lambda: answers(ledger))
    ledger.take('a', Allowance())
    assert ledger.used('a')['day'] == {'requests': 2, 'tokens': 30}


def answers(ledger):
    try:
        ledger.used('a')
    except ApiError:
        return False
    return True


def test_a_redis_that_hangs_costs_a_second_and_no_more(server, ledger):
    import signal

    server.process.send_signal(signal.SIGSTOP)
    try:
        before = time.monotonic()
        for _ in range(20):
            assert refused(ledger, Allowance())[0] == 503
        assert time.monotonic() - before < 5
    finally:
        server.process.send_signal(signal.SIGCONT)
    until(lambda: answers(ledger))


def test_a_server_refuses_honestly_while_redis_is_away_and_answers_afterwards(server, ledger):
    with running(house(ledger=ledger, keys=[auth.key('k', id='a')])) as served:
        assert served.chat('hello', key='k')[0] == 200
        until(lambda: ledger.used('a')['day']['tokens'] == 5 + 6)
        assert served.get('/ready')[0] == 200
        server.stop()
        until(lambda: served.get('/ready')[0] == 503)
        assert 'swift_ready 0' in served.get('/metrics', key='k')[1]
        assert served.get('/live')[0] == 200
        status, answer, headers = served.chat('hello', key='k')
        assert (status, answer['error']['code'], headers['retry-after']) == (503, 'usage_unavailable', '5')
        assert served.get('/v1/models', key='k')[0] == 200
        server.start()
        until(lambda: served.get('/ready')[0] == 200)
        assert served.chat('hello', key='k')[0] == 200
        assert served.engine.stats()['accepted'] == 2


@pytest.mark.parametrize('wrong', ['redis://127.0.0.1:1/0', 'redis://:wrong@{place}', 'redis://{place}/none'])
def test_a_store_that_cannot_be_used_is_said_without_the_password(server, wrong):
    url = wrong.format(place=f'127.0.0.1:{server.port}')
    with pytest.raises(ConfigError, match=r'quota_store 127\.0\.0\.1') as caught:
        SharedLedger(url)
    assert 'wrong' not in str(caught.value)
