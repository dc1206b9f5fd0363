"""How many threads a kernel gets: all, unless other processes hold the cores.

The threads of a decoder's step meet several times a layer. Where another process has taken a core, each of these
meetings lasts as long as its time slice, and a step a hundred times as long, where one thread alone would need twice
the time. So how long our threads waited for a core is looked at now and then; while it is much, one thread goes on
alone. For kernels whose numbers do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from swift.kernels.compiled import function, missing

MEETINGS = 16
LONG = 2e-4  # seconds that a meeting takes at least where a core is taken; free cores need a hundredth of it
MUCH = 0.55  # seconds waited for a core in a second that passed; one busy neighbour of two threads takes 0.7
EVERY = 0.5  # seconds between looks while all threads work
AT_FIRST, AT_MOST = 0.5, 16.0  # seconds alone before all threads are tried again, doubled each time


def waited() -> float:
    """Seconds that the threads of this process were ready to run and had no core; 0 where the system does not say."""
    total = 0
    for task in os.listdir('/proc/self/task') if os.path.isdir('/proc/self/task') else ():
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int(Path('/proc/self/task', task, 'schedstat').read_text(encoding='ascii').split()[1])
    return total * 1e-9


def meet() -> float:
    """Seconds of a meeting of all threads, on average."""
    began = time.perf_counter()
    function('threads_meet', 'i')(MEETINGS)
    return (time.perf_counter() - began) / MEETINGS


def rest() -> None:
    """End the threads that work for the calling one; its next parallel work makes new ones.

    For who hands work over to a thread of its own: while more threads exist than cores, those of OpenMP no longer wait
    for each other awake, and a step of a decoder, in which they meet hundreds of times, takes a fifth longer.
    """
    if missing() is None:
        function('threads_rest', '')()


class Cores:
    """Sets the number of threads of the thread that calls it."""

    def __init__(
        self,
        waited: Callable[[], float] = waited,
        meet: Callable[[], float] = meet,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._all = torch.get_num_threads()
        self._waited, self._meet, self._clock = waited, meet, clock
        self._looked: tuple[float, float] | None = None  # when, and the time waited until then, while all threads work
        self._next = 0.0
        self._pause = 0.0  # seconds that one thread went on alone last time; 0 since cores were seen to be free

    @property
    def alone(self) -> bool:
        """Whether one thread works by itself."""
        return self._looked is None and self._pause > 0

    def share(self) -> None:
        """Look, if it is time to; call it before each step."""
        if self._all == 1 or self._clock() < self._next:
            return
        taken = self._meet_again() if self._looked is None else self._much()
        self._looked = None if taken else (self._clock(), self._waited())
        if taken:
            self._pause = min(AT_MOST, self._pause * 2 or AT_FIRST)
            torch.set_num_threads(1)
        self._next = self._clock() + (self._pause if taken else EVERY)

    def _meet_again(self) -> bool:
        torch.set_num_threads(self._all)
        return self._meet() > LONG

    def _much(self) -> bool:
        """Whether a core was missed since the last look."""
        assert self._looked is not None
        when, before = self._looked
        much = self._waited() - before > MUCH * (self._clock() - when)
        if not much:
            self._pause = 0.0
        return much
