"""One run in a process of its own: when its steps ended, the processor time they took, and the most memory it held.

The driver writes an event a step (``drivers/watch.py``); memory is read from outside, of the process and all below it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

POLL = 0.2  # seconds between two looks at the memory


def run(
    command: Sequence[str], job: Mapping[str, Any], folder: Path, *, threads: int, timeout: float, path: str = ''
) -> dict[str, Any]:
    """Run ``command job.json`` in ``folder`` and return what is known of it.

    Args:
        path: PYTHONPATH of the process.

    Returns:
        ``ok``, ``error``, ``seconds`` in all, ``first_step`` (seconds from the start to the end of step 1), ``steps``
        (each with ``seconds``, ``cpu``, ``tokens``, ``supervised``, ``loss``), ``peak_rss`` in bytes, ``load`` before
        and after, ``versions``, and the driver's own ``result`` if it has one.
    """
    shutil.rmtree(folder, ignore_errors=True)  # nothing of an earlier run helps this one
    folder.mkdir(parents=True)
    events, log = folder / 'events.jsonl', folder / 'log.txt'
    (folder / 'job.json').write_text(
        json.dumps({**job, 'events': str(events), 'scratch': str(folder), 'threads': threads}), encoding='utf-8'
    )
    load, started = os.getloadavg()[0], time.monotonic()
    with log.open('wb') as out:
        process = subprocess.Popen(
            [*command, str(folder / 'job.json')],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
            env=_environment(threads, path), start_new_session=True,
        )  # fmt: skip
        try:
            code, peak = _watch(process, timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    facts = {'seconds': time.monotonic() - started, 'peak_rss': peak, 'load': [load, os.getloadavg()[0]]}
    facts |= _read(events, started)
    expected = job.get('steps', 0)
    ok = code == 0 and len(facts['steps']) >= expected
    reason = f'gave up after {timeout:.0f} s' if code is None else f'exit code {code}, {len(facts["steps"])} steps'
    return {'ok': ok, 'error': '' if ok else f'{reason}: {_last_line(log)} (all of it: {log})', **facts}


def _environment(threads: int, path: str) -> dict[str, str]:
    """The caller's variables, with the threads of the comparison, no network and only this path."""
    kept = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'PYTHONHOME')}
    count = str(threads)
    return {**kept, 'OMP_NUM_THREADS': count, 'MKL_NUM_THREADS': count, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': path}


def _watch(process: subprocess.Popen, timeout: float) -> tuple[int | None, int]:
    """(exit code, or None when time was up; most memory of the tree in bytes)."""
    top, peak, deadline = psutil.Process(process.pid), 0, time.monotonic() + timeout
    while True:
        peak = max(peak, _memory(top))
        try:
            return process.wait(timeout=POLL), peak
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                return None, peak


def _memory(top: psutil.Process) -> int:
    """Memory of a process tree now, and at least the high-water mark of any one process in it (Linux)."""
    with contextlib.suppress(psutil.Error):  # it ended while we looked
        every = (top, *top.children(recursive=True))
        return max(sum(map(resident, every)), *(_high_water(each.pid) for each in every))
    return 0


def resident(process: psutil.Process) -> int:
    """Bytes of memory that a process holds now; none if it has ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _high_water(pid: int) -> int:
    """VmHWM of a process in bytes; 0 where there is no /proc."""
    try:
        for line in Path(f'/proc/{pid}/status').read_text(encoding='utf-8').splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _read(path: Path, started: float) -> dict[str, Any]:
    """The events of a run as its steps; the seconds of a step run from the end of the one before."""
    events = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()] if path.exists() else []
    facts: dict[str, Any] = {'versions': {}, 'result': None, 'first_step': None, 'steps': []}
    losses: dict[int, float] = {}
    wall, cpu = started, 0.0
    for event in events:
        if 'wall' in event:
            facts['steps'].append({**event, 'seconds': event['wall'] - wall, 'cpu': event['cpu'] - cpu})
            wall, cpu = event['wall'], event['cpu']
        elif 'loss' in event:
            losses.setdefault(event['step'], event['loss'])
        else:
            facts |= event
    for step in facts['steps']:
        step.setdefault('loss', losses.get(step['step']))
        del step['wall']
    if facts['steps']:
        facts['first_step'] = facts['steps'][0]['seconds']
    if 'peak' in facts:  # the device's own count
        facts['peak_rss'] = facts.pop('peak')
    return facts


def _last_line(log: Path) -> str:
    return next((line for line in reversed(log.read_text(encoding='utf-8', errors='replace').split('\n')) if line), '')
