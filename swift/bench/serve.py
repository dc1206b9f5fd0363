"""``swift bench serve``: load on a server that does not wait for its answers, at multiples of what the server can do.

    capacity: workers that ask again as soon as they are answered, twice as many until no more tokens come
    load:     Poisson arrivals at 1, 2, 5, 10 and 20 times that rate, sent on schedule whatever becomes of them
    canary:   the same greedy question before and after, whose answer may not change

The load comes from a process of its own (``drivers/load.py``), whose own processor time is told: it shares the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import statistics
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from swift.bench import process
from swift.bench.peers import DRIVERS
from swift.bench.plot import Panel
from swift.bench.sheet import Row, Section
from swift.core.errors import SwiftError
from swift.engines.launch import Launched, environment

MULTIPLES = (1, 2, 5, 10, 20)
WORKERS = (4, 8, 16, 32, 64, 128)  # of the search for capacity
GAIN = 1.05  # more tokens a second that twice the workers must bring for the search to go on
WARM = 0.25  # of the time, at the beginning of each load, which does not count
WORDS = 60  # of a question
PATIENCE = 600.0  # seconds that a client waits for its whole answer, as long as our server takes at most
KEPT = 0.9  # of the capacity, which overload must leave
BUSY = (429, 503)  # honest refusals
DEPLOY = 'import sys; from swift import deploy_main; sys.exit(deploy_main(sys.argv[1:]))'
CANARY = 'Say in one sentence what a canary was for in a coal mine.'


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of which server.

    ``model``: what the server calls it; None takes its first. ``pid``: of the process above a server of ours, whose
    memory is read.
    """

    url: str
    model: str | None
    texts: Sequence[str]
    folder: Path
    seconds: float
    pid: int | None = None
    max_tokens: int = 64
    seed: int = 42
    threads: int = 1
    multiples: Sequence[int] = MULTIPLES


@contextlib.contextmanager
def deployed(model: str, folder: Path, threads: int, seconds: float) -> Iterator[tuple[str, int]]:
    """``swift deploy`` in processes of its own: its URL and the process above it; ended with the block.

    Raises:
        SwiftError: it ended, or was not ready in ``seconds``.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    scratch = folder / 'server'
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, '-c', DEPLOY, '--model', model, '--port', str(port)]
    count = str(threads)
    variables = environment(PYTHONPATH=str(Path(__file__).parents[2]), OMP_NUM_THREADS=count, MKL_NUM_THREADS=count)
    server = Launched('swift deploy', command, variables, scratch)
    try:
        server.wait(lambda: _ready(f'http://127.0.0.1:{port}/ready'), seconds=seconds)
        yield f'http://127.0.0.1:{port}/v1', server.pid
    finally:
        server.close()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def questions(conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """The first words of what people ask."""
    return [' '.join(turns[0]['content'].split()[:WORDS]) for turns in conversations]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments of a Poisson process of ``rate`` a second."""
    dice = random.Random(seed)
    moments = itertools.accumulate(dice.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda at: at < seconds, moments))


# --------------------------------------------------------------------------------------------------------- measurement
def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Capacity, then every multiple of it, with the canary before the first and after each."""
    load = os.getloadavg()
    canary, model = _canary(plan, 'before')
    found: dict[str, Any] = {
        'url': plan.url, 'model': model, 'seconds': plan.seconds, 'max_tokens': plan.max_tokens,
        'threads': plan.threads, 'canary': canary, 'memory': _memory(plan), 'closed': _closed(plan, say), 'open': [],
    }  # fmt: skip
    best = max(found['closed'], key=lambda each: each['tokens/s'])
    found['capacity'] = {name: best[name] for name in ('workers', 'tokens/s', 'requests/s')}
    if not best['requests/s']:
        raise SwiftError(f'{plan.url}: not one request was answered; the last error: {best["errors"]}')
    say(
        f'capacity: {best["tokens/s"]:.0f} tokens/s, {best["requests/s"]:.2f} requests/s with {best["workers"]} workers'
    )
    for times in plan.multiples:
        moments = arrivals(times * best['requests/s'], plan.seconds, plan.seed)
        run = _load(plan, {'arrivals': moments}, f'open.{times}')
        seen = {'times': times, **figures(run, plan.seconds), 'memory': _memory(plan)}
        seen['canary'] = _canary(plan, f'after.{times}') == (canary, model)
        found['open'].append(seen)
        say(f'{times}x: {seen["tokens/s"]:.0f} tokens/s, {seen["refused"]} refused, {seen["failed"]} failed')
    return {**found, 'load': [load, os.getloadavg()]}


def _closed(plan: Plan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What more and more workers get, until more of them get no more."""
    found: list[dict[str, Any]] = []
    for workers in WORKERS:
        run = _load(plan, {'workers': workers, 'seconds': plan.seconds}, f'closed.{workers}')
        found.append({'workers': workers, **figures(run, plan.seconds)})
        say(f'{workers} workers: {found[-1]["tokens/s"]:.0f} tokens/s')
        if len(found) > 1 and found[-1]['tokens/s'] < GAIN * found[-2]['tokens/s']:
            break
    return found


def _canary(plan: Plan, name: str) -> tuple[str, str]:
    """The answer to the question whose answer may not change, and who gives it. Raises SwiftError: nobody does."""
    run = _load(plan, {'arrivals': [0.0], 'texts': [CANARY], 'keep': True}, f'canary.{name}')
    (seen,) = run['requests']
    if not seen['ok']:
        raise SwiftError(f'{plan.url} does not answer: status {seen["status"]}, {seen["error"]}')
    return seen['text'], run['model']


def _load(plan: Plan, load: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One run of the load generator. Raises SwiftError: it failed itself."""
    texts = random.Random(f'{plan.seed} {name}').sample(plan.texts, len(plan.texts))  # so that no order is remembered
    job = {
        'url': plan.url, 'model': plan.model, 'texts': texts, 'max_tokens': plan.max_tokens,
        'patience': PATIENCE, 'keep': False, **load,
    }  # fmt: skip
    command = [sys.executable, str(DRIVERS / 'load.py')]
    timeout = 2 * plan.seconds + 2 * PATIENCE
    run = process.run(command, job, plan.folder / 'work' / name, threads=1, timeout=timeout)
    if not run['ok']:
        raise SwiftError(f'the load generator failed: {run["error"]}')
    return run['result']


def _memory(plan: Plan) -> int | None:
    """Bytes that the server holds now; None where it is not ours."""
    if plan.pid is None:
        return None
    return sum(process.resident(each) for each in psutil.Process(plan.pid).children(recursive=True))


# ------------------------------------------------------------------------------------------------------------- figures
def figures(run: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a load of ``seconds`` came to. All times are milliseconds from the moment a request was to be sent.

    A token counts if its answer came to its end, and it came after the warm part and before the load ended.
    """
    asked = run['requests']
    answered = [each for each in asked if each['ok']]
    refused = [each for each in asked if each['status'] in BUSY and not each['ok']]
    failed = [each for each in asked if not each['ok'] and each['status'] not in BUSY]
    tokens, pieces = (sum(count) for count in ([a['tokens'] for a in answered], [len(a['pieces']) for a in answered]))
    inside = sum(WARM * seconds <= at < seconds for each in answered for at in each['pieces'])
    rate = inside * tokens / pieces / ((1 - WARM) * seconds) if pieces else 0.0
    gaps = [later - at for each in answered for at, later in itertools.pairwise(each['pieces'])]
    firsts = [each['pieces'][0] - each['at'] for each in answered if each['pieces']]
    return {
        'asked': len(asked), 'answered': len(answered), 'refused': len(refused), 'failed': len(failed),
        'tokens/s': rate, 'requests/s': rate * len(answered) / tokens if tokens else 0.0,
        'first': _spread(firsts), 'gap': _spread(gaps),
        'refusal': _spread([each['end'] - each['at'] for each in refused]),
        'retry_after': sum(each['retry_after'] for each in refused),
        'late': _spread([each['sent'] - each['at'] for each in asked]),
        'cpu': run['cpu'] / run['seconds'],
        'errors': sorted({f'{each["status"]} {each["error"]}'[:200] for each in failed})[:3],
    }  # fmt: skip


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and 99th percentile in milliseconds."""
    if not values:
        return None
    ranked = sorted(values)
    return {
        'p50': 1000 * statistics.median(ranked),
        'p99': 1000 * ranked[len(ranked) * 99 // 100],
    }


# -------------------------------------------------------------------------------------------------------------- report
def sections(found: Mapping[str, Any]) -> list[Section]:
    """The tables of a report."""
    capacity = found['capacity']
    closed = [
        (str(e['workers']), f'{e["tokens/s"]:.0f}', f'{e["requests/s"]:.2f}', _shown(e['first']), _shown(e['gap']))
        for e in found['closed']
    ]
    heading = ('workers', 'tokens/s', 'requests/s', 'first token ms', 'gap ms')
    return [
        Section(f'{found["model"]}: capacity, closed loop (p50 / p99)', [heading, *closed]),
        Section(
            f'Open loop, 1x is {capacity["requests/s"]:.2f} requests/s, {found["seconds"]:.0f} s each (p50 / p99)',
            list(rows_of(found)),
            list(_notes(found)),
        ),
    ]


def rows_of(found: Mapping[str, Any]) -> Iterator[Row]:
    """The table of the open loop."""
    yield (
        'load', 'tokens/s', 'of capacity', 'asked', 'answered', 'refused', 'failed', 'first token ms', 'gap ms',
        'refusal ms', 'Retry-After', 'server GiB', 'canary', 'sent late ms', 'load CPU',
    )  # fmt: skip
    for each in found['open']:
        memory = '' if each['memory'] is None else f'{each["memory"] / 2**30:.2f}'
        share = each['tokens/s'] / found['capacity']['tokens/s']
        counts = (str(each[name]) for name in ('asked', 'answered', 'refused', 'failed'))
        times = (_shown(each[name]) for name in ('first', 'gap', 'refusal'))
        told = f'{each["retry_after"]} of {each["refused"]}' if each['refused'] else ''
        yield (
            f'{each["times"]}x', f'{each["tokens/s"]:.0f}', f'{share:.0%}', *counts, *times, told, memory,
            'same' if each['canary'] else 'OTHER', _shown(each['late']), f'{each["cpu"]:.0%}',
        )  # fmt: skip


def _shown(spread: Mapping[str, float] | None) -> str:
    return f'{spread["p50"]:,.0f} / {spread["p99"]:,.0f}' if spread else ''


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    yield f'up to {found["max_tokens"]} tokens an answer; times count from the moment a request was to be sent'
    if found['memory'] is not None:
        yield f'memory of the server before: {found["memory"] / 2**30:.2f} GiB'
    for each in found['open']:
        if each['tokens/s'] < KEPT * found['capacity']['tokens/s']:
            yield f'{each["times"]}x: below {KEPT:.0%} of the capacity'
        yield from (f'{each["times"]}x: {error}' for error in each['errors'])


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """The pictures of a report."""
    named = [(f'{each["times"]}x', each) for each in reversed(found['open'])]
    names = [name for name, _ in named]
    drawn = [
        ('Tokens/s of whole answers; the line is the capacity', [each['tokens/s'] for _, each in named]),
        ('First token, p99 ms', [each['first']['p99'] if each['first'] else 0.0 for _, each in named]),
        ('Refusal, p99 ms', [each['refusal']['p99'] if each['refusal'] else 0.0 for _, each in named]),
    ]
    limits = (found['capacity']['tokens/s'], None, None)
    return [
        Panel(title, list(zip(names, values, strict=True)), names, limit)
        for (title, values), limit in zip(drawn, limits, strict=True)
    ]


def wrong(found: Mapping[str, Any]) -> bool:
    """Whether a request came to nothing without an honest refusal, or the canary's answer changed."""
    return any(each['failed'] or not each['canary'] for each in found['open'])
