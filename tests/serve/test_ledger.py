"""What keys have used: exact under threads, kept over restarts and kills, forgotten with its window."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from swift.core.errors import DiskError
from swift.serve.errors import ApiError
from swift.serve.ledger import Allowance, Ledger
from tests.serve.clock import DAY, NOON, Clock

ROOT = Path(__file__).parents[2]


def refused(ledger, allowance, key='a'):
    with pytest.raises(ApiError) as caught:
        ledger.take(key, allowance)
    assert caught.value.status == 429
    return caught.value.code, int(caught.value.headers['retry-after'])


def test_a_limit_of_requests_holds_for_its_window_and_key():
    clock = Clock()
    ledger, allowance = Ledger(clock=clock), Allowance(requests_per_minute=2)
    ledger.take('a', allowance)
    clock.now += 20
    ledger.take('a', allowance)
    assert refused(ledger, allowance) == ('requests_per_minute_exceeded', 40)
    ledger.take('b', allowance)
    clock.now += 40
    ledger.take('a', allowance)
    assert ledger.used('a') == {'minute': {'requests': 1, 'tokens': 0}, 'day': {'requests': 3, 'tokens': 0}}


def test_a_limit_of_tokens_refuses_the_next_request():
    ledger, allowance = Ledger(clock=Clock()), Allowance(tokens_per_day=100)
    ledger.take('a', allowance)
    ledger.count('a', 99)
    ledger.take('a', allowance)
    ledger.count('a', 50)
    assert refused(ledger, allowance) == ('tokens_per_day_exceeded', DAY // 2)
    assert ledger.used('a')['day'] == {'requests': 2, 'tokens': 149}


def test_counts_are_there_after_a_restart(tmp_path):
    clock, path = Clock(), tmp_path / 'new' / 'usage.sqlite3'
    ledger = Ledger(path, clock=clock)
    ledger.take('a', Allowance())
    ledger.count('a', 7)
    ledger.close()
    assert Ledger(path, clock=clock).used('a')['day'] == {'requests': 1, 'tokens': 7}


def test_counts_survive_kill_9(tmp_path):
    path = tmp_path / 'usage.sqlite3'
    code = (
        'import os, signal\nfrom pathlib import Path\nfrom swift.serve.ledger import Allowance, Ledger\n'
        f'ledger = Ledger(Path({str(path)!r}), clock=lambda: {NOON})\n'
        'for i in range(50): ledger.take("a", Allowance()); ledger.count("a", 3)\n'
        'os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == -9
    assert Ledger(path, clock=Clock()).used('a')['day'] == {'requests': 50, 'tokens': 150}


def test_threads_and_servers_that_share_a_file_count_every_request(tmp_path):
    path, allowance = tmp_path / 'usage.sqlite3', Allowance(requests_per_day=50)
    ledgers = [Ledger(path, clock=Clock()) for _ in range(2)]
    let_in = []

    def ask(ledger):
        for _ in range(20):
            try:
                ledger.take('a', allowance)
                let_in.append(1)
            except ApiError:
                pass

    threads = [threading.Thread(target=ask, args=(ledgers[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_in) == 50
    assert ledgers[0].used('a')['day']['requests'] == 50


def test_a_file_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / 'file').write_text('this is not a database, and longer than the header of one ' * 20)
    with pytest.raises(DiskError, match='usage_file'):
        Ledger(tmp_path / 'file')
    with pytest.raises(DiskError, match='usage_file'):
        Ledger(tmp_path / 'file' / 'below')
