"""One run in a process of its own."""

import sys

import pytest

from swift.bench import process

STEPS = """
import json, sys, time
job = json.load(open(sys.argv[1]))
with open(job['events'], 'w') as events:
    for step in (1, 2, 3):
        wall, tokens = time.monotonic(), 10 * step
        print(json.dumps({'wall': wall, 'cpu': 0.5 * step, 'step': step, 'tokens': tokens}), file=events)
        print(json.dumps({'step': step, 'loss': 2.0 / step}), file=events)
"""
CHILD = """
import subprocess, sys
subprocess.run([sys.executable, '-c', 'import time; held = bytearray(300 * 2**20); time.sleep(1)'])
"""


@pytest.fixture
def run(tmp_path):
    def run(code, *, steps=0, timeout=60):
        script = tmp_path / 'script.py'
        script.write_text(code, encoding='utf-8')
        return process.run(
            [sys.executable, str(script)], {'steps': steps}, tmp_path / 'work', threads=1, timeout=timeout
        )

    return run


def test_steps_have_the_time_since_the_one_before_and_losses_that_come_later(run):
    done = run(STEPS, steps=3)
    assert done['ok'], done['error']
    assert [step['loss'] for step in done['steps']] == [2.0, 1.0, 2 / 3]
    assert [step['cpu'] for step in done['steps']] == [0.5, 0.5, 0.5]
    assert 0 < done['first_step'] < done['seconds']


def test_too_few_steps_are_a_failure(run):
    done = run(STEPS, steps=4)
    assert not done['ok'] and '3 steps' in done['error']


def test_a_failure_shows_its_last_line_and_where_the_rest_is(run):
    done = run('raise ValueError("no such thing")')
    assert not done['ok']
    assert 'no such thing' in done['error'] and 'log.txt' in done['error']


def test_a_run_that_does_not_end_is_given_up(run):
    done = run('import time; time.sleep(60)', timeout=1)
    assert not done['ok'] and 'gave up' in done['error']
    assert done['seconds'] < 30


def test_memory_counts_the_children_too(run):
    assert run(CHILD)['peak_rss'] > 300 * 2**20
