"""Numbers for Prometheus: counters, gauges and histograms in its text format, without a library."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Labels = tuple[str, ...]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass
class Counter:
    """Counts up, by labels."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    values: dict[Labels, float] = field(default_factory=dict)
    kind = 'counter'

    def add(self, *labels: str, by: float = 1) -> None:
        """Count ``by`` more."""
        self.values[labels] = self.values.get(labels, 0) + by

    def lines(self) -> Iterator[str]:
        """Its samples."""
        for labels, value in self.values.items() or ([((), 0.0)] if not self.labels else []):
            yield f'{self.name}{_labels(self.labels, labels)} {_number(value)}'


@dataclass
class Gauge:
    """Reads a number when it is asked for it."""

    name: str
    help: str
    read: Callable[[], float]
    kind = 'gauge'

    def lines(self) -> Iterator[str]:
        """Its sample."""
        yield f'{self.name} {_number(self.read())}'


@dataclass
class Histogram:
    """How many values were at most so large."""

    name: str
    help: str
    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    kind = 'histogram'

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def see(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> Iterator[str]:
        """Its samples."""
        running = 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            running += count
            yield f'{self.name}_bucket{{le="{_number(bound)}"}} {running}'
        yield f'{self.name}_sum {_number(self.total)}'
        yield f'{self.name}_count {running}'


def text(metrics: list[Counter | Gauge | Histogram]) -> str:
    """All metrics, as Prometheus reads them."""
    lines: list[str] = []
    for each in metrics:
        lines += [f'# HELP {each.name} {each.help}', f'# TYPE {each.name} {each.kind}', *each.lines()]
    return '\n'.join(lines) + '\n'


def _labels(names: tuple[str, ...], values: Labels) -> str:
    if not names:
        return ''
    shown = (f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return f'{{{",".join(shown)}}}'


def _escape(value: str) -> str:
    return value.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')


def _number(value: float) -> str:
    return '+Inf' if value == math.inf else repr(int(value)) if value == int(value) else repr(value)
