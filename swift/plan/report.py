"""A plan for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from swift.core.errors import ConfigError
from swift.core.table import pad, width
from swift.plan.ladder import Rung
from swift.plan.predict import Plan

GIB = 2**30
UNITS = {'': GIB, 'g': GIB, 'gib': GIB, 'm': 2**20, 'mib': 2**20, 'gb': 10**9, 'mb': 10**6}
Steps = Sequence[tuple[Rung, Plan]]


def size(text: str) -> int:
    """``24GiB``, ``16GB``, ``512MiB`` in bytes; a bare number means GiB."""
    found = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*', text.lower())
    if not found or found[2] not in UNITS:
        raise ConfigError(f'--memory {text}: expected a size like 24GiB or 16GB')
    return round(float(found[1]) * UNITS[found[2]])


def verdict(plan: Plan, limit: int) -> str:
    """``fits: 3.1 of 24.0 GiB, 41 s to go``."""
    word = 'fits' if plan.peak <= limit else 'does not fit'
    about = '' if plan.measured else 'about '
    left = f', {_clock(plan.seconds)} to go' if plan.seconds else ''
    return f'{word}: {about}{plan.peak / GIB:.1f} of {limit / GIB:.1f} GiB{left}'


def lines(plan: Plan, steps: Steps, limit: int) -> Iterator[str]:
    """The whole report."""
    worst = plan.work.worst
    known = ' (assumed: no data was given)' if plan.work.assumed else ''
    yield f'largest micro-batch: {worst.tokens:,} tokens in {len(worst.lengths)}, {worst.targets:,} with loss{known}'
    yield ''
    yield from _table([('held at the peak of a step', 'GiB'), *((name, _gib(n)) for name, n in plan.owners.items())])
    if plan.mapped > 0:
        yield f'  {_gib(plan.mapped).strip()} of it stand in files and can be given back'
    yield ''
    yield from _table([('peak of each phase', 'GiB'), *((name, _gib(n)) for name, n in plan.phases.items())])
    yield ''
    yield verdict(plan, limit)
    if plan.speed:
        yield f'{plan.speed:,.0f} tokens/s by this rehearsal'
    if steps:
        yield ''
        yield from _ladder(plan, steps, limit)


def _ladder(plan: Plan, steps: Steps, limit: int) -> Iterator[str]:
    rows = [('the same training, each line on top of those before it', 'GiB', 'speed', 'fits')]
    for title, each in (('as asked', plan), *((rung.title, each) for rung, each in steps)):
        speed = f'{each.speed / plan.speed:.2f}x' if plan.speed else ''
        rows.append((title, _gib(each.peak), speed, 'yes' if each.peak <= limit else 'no'))
    yield from _table(rows)


def as_json(plan: Plan, steps: Steps, limit: int) -> dict[str, Any]:
    """The same as data, sizes in bytes."""
    return {
        **_facts(plan, limit),
        'owners': plan.owners,
        'phases': plan.phases,
        'file_backed': plan.mapped,
        'memory': limit,
        'ladder': [{'change': rung.title, 'flags': rung.flags, **_facts(each, limit)} for rung, each in steps],
    }


def _facts(plan: Plan, limit: int) -> dict[str, Any]:
    return {
        'peak': plan.peak,
        'fits': plan.peak <= limit,
        'tokens_per_second': round(plan.speed, 1),
        'seconds': round(plan.seconds, 1),
    }


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns; the first is text, the others are numbers."""
    sizes = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    for first, *others in rows:
        cells = [' ' * (size - width(text)) + text for text, size in zip(others, sizes[1:], strict=True)]
        yield '  ' + '  '.join([pad(first, sizes[0]), *cells])


def _gib(size: int) -> str:
    return f'{size / GIB:.2f}'


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min {rest} s' if minutes else f'{rest} s'
