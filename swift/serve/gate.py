"""Who is answered next: a bounded queue before the engine, fair between keys.

A place is taken for every answer that decodes at once. When all are taken, requests wait in a line of their key; the
next place goes to the key that holds the fewest. The queue is full when it has as many requests as it may, or when they
would wait longer than they may, as places become free. Nobody can fill it alone: then the newest request of the longest
line makes room for that of a shorter one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from swift.serve.errors import ApiError, later
from swift.serve.pace import Pace


@dataclass(eq=False)
class _Waiter:
    """A request in line."""

    key: str
    places: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Gate:
    """Belongs to one event loop.

    Args:
        places: answers that the engine is given at once.
        queue: requests that may wait.
        seconds: how long they may have to wait, by what is known when they come.
        clock: seconds that never go back.
    """

    def __init__(
        self, places: int, queue: int, seconds: float = math.inf, *, clock: Callable[[], float] = time.monotonic
    ):
        self._places, self._queue, self._seconds, self._clock = places, queue, seconds, clock
        self._taken: Counter[str] = Counter()  # places by key
        self._open: Counter[str] = Counter()  # requests by key, waiting ones too
        self._lines: dict[str, deque[_Waiter]] = {}
        self._order: Counter[str] = Counter()  # when each key had its last turn
        self._turns = 0
        self._wanted = 0  # places, by those in line
        self._pace = Pace(places, clock=clock)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(map(len, self._lines.values()))

    @property
    def running(self) -> int:
        """Places taken."""
        return self._taken.total()

    def wait(self, places: int = 1) -> float:
        """Seconds until a request that comes now would have had its turn, at the latest, as things go."""
        ahead = self._wanted + self.running + places - self._places
        return self._pace.seconds(ahead) if ahead > 0 else 0.0

    def open_of(self, key: str) -> int:
        """Requests of a key that wait or are answered."""
        return self._open[key]

    def check(self, key: str, parallel: int | None) -> None:
        """Raises ApiError 429 for a request that would not be let in now: cheaper to know before it is tokenised."""
        if parallel is not None and self._open[key] >= parallel:
            message = f'this key may have {parallel} requests open at once and has'
            raise later(message, 'parallel_exceeded', self._pace.each, status=429)
        if self._is_full(1) and not self._loses(key):
            raise self._full(1)

    def _is_full(self, places: int) -> bool:
        return self.waiting >= self._queue or self.wait(places) > self._seconds

    def _loses(self, key: str) -> bool:
        """Whether somebody with a longer line would make room for ``key``."""
        return max(map(len, self._lines.values()), default=0) > len(self._lines.get(key, ())) + 1

    @contextlib.asynccontextmanager
    async def turn(self, key: str, places: int, parallel: int | None) -> AsyncIterator[None]:
        """Wait for a turn and hold it for the block.

        Args:
            places: answers that decode at once; more than there are count as all.
            parallel: requests that the key may have open.

        Raises:
            ApiError: 429, the queue is full, or the key has too many requests open.
        """
        self.check(key, parallel)
        places = min(places, self._places)
        self._open[key] += 1
        try:
            await self._wait(key, places)
            began, failed = self._clock(), False
            try:
                yield
            except Exception:  # places that an engine leaves when it dies tell nothing of how fast it is
                failed = True
                raise
            finally:
                if not failed:
                    self._pace.freed(places, self._clock() - began)
                _less(self._taken, key, places)
                self._admit()
        finally:
            _less(self._open, key, 1)

    async def _wait(self, key: str, places: int) -> None:
        if not self._lines and self.running + places <= self._places:
            self._take(key, places)
            self._admit()
            return
        if self._is_full(places):
            self._make_room(key, places)
        waiter = _Waiter(key, places)
        self._lines.setdefault(key, deque()).append(waiter)
        self._wanted += places
        self._admit()
        try:
            await waiter.turn
        except BaseException:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                _less(self._taken, key, places)  # its turn came in the moment it left
            else:
                self._leave(waiter)
            self._admit()
            raise

    def _make_room(self, key: str, places: int) -> None:
        """Send somebody away: the newest of the longest line, or whoever has just come."""
        if not self._loses(key):
            raise self._full(places)
        longest = max(self._lines.values(), key=len)
        waiter = longest[-1]
        self._leave(waiter)
        if not waiter.turn.done():
            waiter.turn.set_exception(self._full(places))

    def _full(self, places: int) -> ApiError:
        wait = self.wait(places)
        return later(f'{self.waiting} requests are waiting; try again in {wait:.0f} s', 'queue_full', wait, status=429)

    def _leave(self, waiter: _Waiter) -> None:
        line = self._lines.get(waiter.key)
        if line is not None and waiter in line:
            line.remove(waiter)
            self._wanted -= waiter.places
            if not line:
                del self._lines[waiter.key]

    def _admit(self) -> None:
        """Give free places to those whose turn it is."""
        self._give()
        self._pace.full(bool(self._lines) or self.running >= self._places)

    def _give(self) -> None:
        while self._lines:
            key = min(self._lines, key=lambda each: (self._taken[each], self._order[each]))
            waiter = self._lines[key][0]
            if waiter.turn.done():  # it was cancelled in this very moment, and does not know it yet
                self._leave(waiter)
                continue
            if self.running + waiter.places > self._places:
                return  # it has waited longest for its share: nobody goes before it
            self._leave(waiter)
            self._take(key, waiter.places)
            waiter.turn.set_result(None)

    def _take(self, key: str, places: int) -> None:
        self._turns += 1
        self._order[key] = self._turns
        self._taken[key] += places


def _less(counter: Counter[str], key: str, by: int) -> None:
    """Subtract, and forget keys that have none: their number is not bounded by ours."""
    counter[key] -= by
    if counter[key] <= 0:
        del counter[key]
