"""A hang ends with exit code 75 and stacks on disk; a long phase that was announced does not."""

import subprocess
import sys
import time

from swift.train.watchdog import Watchdog

HANGS = """
import sys, threading, time
from pathlib import Path
from swift.train.watchdog import Watchdog

def waits_for_a_reward():
    threading.Event().wait()

with Watchdog(Path(sys.argv[1]), budget=0.4) as watchdog:
    watchdog.beat('step 12')
    waits_for_a_reward()
"""


def test_a_hang_is_found_within_twice_its_budget_and_the_stack_names_the_culprit(tmp_path):
    started = time.monotonic()
    done = subprocess.run([sys.executable, '-c', HANGS, tmp_path], capture_output=True, text=True, timeout=60)
    took = time.monotonic() - started
    assert done.returncode == 75 and 'step 12' in done.stderr
    (stacks,) = tmp_path.glob('hang-*.txt')
    assert 'waits_for_a_reward' in stacks.read_text() and str(stacks) in done.stderr
    assert took < 30


def test_an_announced_long_phase_is_no_hang(tmp_path):
    with Watchdog(tmp_path, budget=0.2) as watchdog:
        watchdog.beat('loading the model', budget=60)
        time.sleep(0.6)
        for step in range(6):
            watchdog.beat(f'step {step}')
            time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_of_zero_watches_nothing(tmp_path):
    with Watchdog(tmp_path, budget=0) as watchdog:
        watchdog.beat('step 1')
        time.sleep(0.1)
