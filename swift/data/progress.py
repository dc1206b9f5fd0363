"""A progress bar for whatever takes longer than two seconds, and nothing for what does not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from swift.core import dist

T = TypeVar('T')
PATIENCE = 2.0  # seconds


def track(items: Iterable[T], what: str, *, total: int) -> Iterator[T]:
    """Yield ``items``; when that lasts, show how far it is on the terminal (and nowhere else)."""
    if not (dist.is_first() and sys.stderr.isatty()):
        yield from items
        return
    started, seen, left = time.monotonic(), 0, iter(items)
    for item in left:
        yield item
        seen += 1
        if time.monotonic() - started > PATIENCE:
            break
    yield from _with_bar(left, what, total=total, seen=seen)


def _with_bar(items: Iterator[T], what: str, *, total: int, seen: int) -> Iterator[T]:
    first = next(items, None)
    if first is None:
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=seen)
        yield first
        for item in items:
            bar.advance(task)
            yield item
