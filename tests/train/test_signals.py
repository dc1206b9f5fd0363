"""Signals end a run between two steps, or at once when there is nothing to save."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swift.core.errors import Interrupted
from swift.train.signals import Signals


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_loop_saves_and_then_interrupts(number, code):
    saves = []
    with Signals() as signals, signals.deferred():
        signals.obey(lambda: saves.append(1))
        os.kill(os.getpid(), number)
        assert saves == []
        with pytest.raises(Interrupted, match='checkpoint-3') as interrupted:
            signals.obey(lambda: saves.append(1) or Path('checkpoint-3'))
    assert saves == [1] and interrupted.value.exit_code == code


def test_sigusr1_saves_once_and_goes_on():
    saves = []
    with Signals() as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.obey(lambda: saves.append(1))
        signals.obey(lambda: saves.append(1))
    assert saves == [1]


def test_sigusr1_before_the_first_step_does_nothing():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        with signals.deferred():
            signals.obey(lambda: pytest.fail('nothing to save'))


def test_a_signal_before_the_first_step_exits_at_once_past_every_handler():
    with pytest.raises(SystemExit) as stopped, Signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            pytest.fail('swallowed')
    assert stopped.value.code == 143


def test_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_ends_the_process_at_once():
    program = (
        'import sys, time\n'
        'from swift.train.signals import Signals\n'
        'with Signals() as signals, signals.deferred():\n'
        '    print("in", flush=True)\n'
        '    while True: time.sleep(60)\n'
    )
    child = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == 'in\n'
    child.send_signal(signal.SIGTERM)
    while 'once more stops at once' not in child.stderr.readline():
        pass
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == -signal.SIGINT
