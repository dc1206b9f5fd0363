"""How long a line takes: the rate at which places have become free, of the time in which none was.

Time in which places stood empty does not count: work that is alone is done faster than work that is shared, and few
requests come in it. The window is a number of places, not of seconds, so that it fits fast and slow models; time that
passes without a free place counts at once. It begins with one round of all places, as long as requests took so far.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

USUAL = 2.0  # seconds that a request takes, before any was seen
SMOOTHING = 0.1
ROUNDS = 2  # times all places that the window has: those that are taken together become free together
LEAST = 16  # places that the window has


class Pace:
    """The rate of ``places``.

    ``clock``: seconds that never go back.
    """

    def __init__(self, places: int, *, clock: Callable[[], float] = time.monotonic):
        self._places, self._clock = places, clock
        self._freed: deque[float] = deque(maxlen=max(ROUNDS * places, LEAST) + 1)  # moments of the busy time
        self._busy = 0.0  # seconds in which no place was free
        self._since: float | None = None  # when that began, where it is so now
        self.each = USUAL  # seconds that a request takes

    def full(self, is_full: bool) -> None:
        """Say whether all places are taken, whenever that may have changed."""
        now = self._clock()
        if self._since is not None:
            self._busy += now - self._since
        self._since = now if is_full else None
        if is_full and not self._freed:
            self._freed.extend(self._busy + self.each * (i / self._places - 1) for i in range(self._places + 1))

    def freed(self, places: int, seconds: float) -> None:
        """A request of ``places`` has ended, ``seconds`` after its turn."""
        self.each += SMOOTHING * (seconds - self.each)
        if self._since is not None:
            self._freed.extend([self._now()] * places)

    def seconds(self, places: int) -> float:
        """How long it takes until so many become free, where none is."""
        if not self._freed:
            return 0.0
        return places * (self._now() - self._freed[0]) / (len(self._freed) - 1)

    def _now(self) -> float:
        return self._busy + (0.0 if self._since is None else self._clock() - self._since)
