"""From the steps of several runs to one number with its uncertainty.

A run's steps before ``WARM`` do not count. The figure of a side is the median over all steps of all its runs; its
ratio to ours carries an interval from a bootstrap that draws runs first and then steps within them, because what
disturbs a machine disturbs whole runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

WARM = 2
DRAWS, LEVEL = 2000, 0.95

Run = dict[str, Any]
Values = Callable[[Run], list[float]]


class Ratio(NamedTuple):
    """``value`` lies between ``low`` and ``high`` with 95 % confidence, as far as these runs can tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.value:.2f} ({self.low:.2f}-{self.high:.2f})'


def warm(run: Run) -> list[dict[str, Any]]:
    """The steps that count."""
    return run['steps'][WARM:] or run['steps'][-1:]


def tokens_per_second(run: Run) -> list[float]:
    """Real tokens a second of every step that counts."""
    return [step['tokens'] / step['seconds'] for step in warm(run)]


def rows_per_second(run: Run) -> list[float]:
    """Rows, or pairs, a second of every step that counts."""
    return [step['rows'] / step['seconds'] for step in warm(run)]


def cpu_per_row(run: Run) -> list[float]:
    """Processor seconds a row of every step that counts."""
    return [step['cpu'] / step['rows'] for step in warm(run)]


def cpu_per_million(run: Run) -> list[float]:
    """Processor seconds per million real tokens of every step that counts."""
    return [1e6 * step['cpu'] / max(step['tokens'], 1) for step in warm(run)]


def peak(run: Run) -> list[float]:
    """The most memory of the run, bytes."""
    return [run['peak_rss']]


def start(run: Run) -> list[float]:
    """Seconds from the start of the process to the end of the first step."""
    return [run['first_step']]


def rate(run: Run) -> list[float]:
    """Items a second of a run that times one piece of work several times."""
    return run['result']['rates']


def median(runs: Sequence[Run], values: Values) -> float:
    """The figure of one side."""
    return float(np.median([value for run in runs for value in values(run)]))


def ratio(ours: Sequence[Run], theirs: Sequence[Run], values: Values, *, seed: int = 0) -> Ratio:
    """Our figure over theirs."""
    random = np.random.default_rng(seed)
    a, b = ([values(run) for run in runs] for runs in (ours, theirs))
    draws = [_draw(a, random) / max(_draw(b, random), 1e-30) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ratio(median(ours, values) / max(median(theirs, values), 1e-30), float(low), float(high))


def _draw(runs: list[list[float]], random: np.random.Generator) -> float:
    chosen = (runs[i] for i in random.integers(len(runs), size=len(runs)))
    return float(np.median([run[i] for run in chosen for i in random.integers(len(run), size=len(run))]))
