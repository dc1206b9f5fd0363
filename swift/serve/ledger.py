"""What each key has used, minute by minute and day by day, in SQLite: exact, and still there after a restart.

Windows are those of the clock (UTC). Several servers on one machine may share the file. A request counts when it is let
in, its tokens when they are known: one request may end above a limit of tokens, the next one is refused.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core.errors import DiskError
from swift.serve.errors import ApiError, later

SECONDS = {'minute': 60, 'day': 86_400}
KEPT = 40 * SECONDS['day']  # older windows are forgotten


@dataclass(frozen=True)
class Allowance:
    """What a key may use; None is without limit. ``parallel``: requests at once."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    parallel: int | None = None


LIMITS = {  # (what, window) -> field of Allowance
    (what, window): f'{what}_per_{window}' for window in SECONDS for what in ('requests', 'tokens')
}


class Ledger:
    """Counts of every key. Calls block for the time of one small transaction; servers make them in a thread.

    Args:
        path: the file; None keeps the counts in memory.
        clock: seconds since 1970.

    Raises:
        DiskError: the file cannot be opened or written.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time):
        self._clock, self._lock, self._path = clock, threading.Lock(), path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(path or ':memory:', timeout=5, check_same_thread=False, isolation_level=None)
            self._store.execute('pragma journal_mode = wal')
            self._store.execute('pragma synchronous = normal')
            self._store.execute(
                'create table if not exists used (key text, window text, number integer, requests integer, '
                'tokens integer, primary key (key, window, number)) without rowid'
            )
            for window, seconds in SECONDS.items():
                oldest = int((clock() - (KEPT if window == 'day' else seconds)) // seconds)
                self._store.execute('delete from used where window = ? and number < ?', (window, oldest))
        except (OSError, sqlite3.Error) as error:
            raise DiskError(f'--usage_file {path}: {error}') from error

    def take(self, key: str, allowance: Allowance) -> None:
        """Count a request of ``key``. Raises ApiError 429 when a limit of its is reached; then nothing is counted."""
        with self._transaction():
            now, used = self._clock(), self._used(key)
            for (what, window), name in LIMITS.items():
                limit = getattr(allowance, name)
                if limit is not None and used[window][what] >= limit:
                    wait = SECONDS[window] - now % SECONDS[window]
                    raise refusal(what, window, limit, wait)
            self._add(key, requests=1, tokens=0)

    def count(self, key: str, tokens: int) -> None:
        """Count tokens that were read or written for ``key``."""
        with self._transaction():
            self._add(key, requests=0, tokens=tokens)

    def used(self, key: str) -> dict[str, dict[str, int]]:
        """``{'minute': {'requests', 'tokens'}, 'day': ...}`` of the windows that are now."""
        with self._lock:
            return self._used(key)

    def check(self) -> None:
        """Nothing can be away here; a file that cannot be written shows when something is counted."""

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._store.close()

    # ---------------------------------------------------------------------------------------------------------- parts
    def _transaction(self) -> Any:
        return _Transaction(self._lock, self._store)

    def _used(self, key: str) -> dict[str, dict[str, int]]:
        found = {}
        for window, number in self._windows():
            row = self._store.execute(
                'select requests, tokens from used where key = ? and window = ? and number = ?', (key, window, number)
            ).fetchone()
            found[window] = dict(zip(('requests', 'tokens'), row or (0, 0), strict=True))
        return found

    def _add(self, key: str, *, requests: int, tokens: int) -> None:
        for window, number in self._windows():
            self._store.execute(
                'insert into used values (?, ?, ?, ?, ?) on conflict do update '
                'set requests = requests + excluded.requests, tokens = tokens + excluded.tokens',
                (key, window, number, requests, tokens),
            )

    def _windows(self) -> list[tuple[str, int]]:
        now = self._clock()
        return [(window, int(now // seconds)) for window, seconds in SECONDS.items()]


class _Transaction:
    """Holds the lock and the file; what was written is undone when the block raises."""

    def __init__(self, lock: threading.Lock, store: sqlite3.Connection):
        self._lock, self._store = lock, store

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._store.execute('begin immediate')
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._store.execute('commit' if kind is None else 'rollback')
        finally:
            self._lock.release()


def refusal(what: str, window: str, limit: int, wait: float) -> ApiError:
    """A limit is reached; ``wait`` seconds from now a new window begins."""
    return later(
        f'this key may use {limit} {what} a {window} and has; try again in {wait:.0f} s',
        f'{what}_per_{window}_exceeded',
        wait,
        status=429,
    )
