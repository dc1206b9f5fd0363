"""Ends a run that no longer makes progress: exit code 75, the stacks of all threads on disk.

    with Watchdog(run, budget=1800) as watchdog:
        watchdog.beat('loading the model', budget=7200)
        watchdog.beat('step 12')               # whatever moves says so; the name tells where it stopped

It is a thread of its own and needs nothing of the one that hangs. A hang is found within 1.5 times its budget.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from swift.core.errors import HangError

CHECKS = 4  # of the clock, per default budget


class Watchdog:
    """Watches until the block ends. A budget of 0 seconds watches nothing.

    Time in which the whole process stood still (stopped by a debugger, a laptop asleep) does not count: the watch
    adds up its own ticks and never takes a late one for more than two.
    """

    def __init__(self, folder: Path, *, budget: float):
        self.folder, self.default = folder, budget
        self.phase, self.budget, self.idle = 'starting', budget, 0.0
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        if self.default > 0:
            threading.Thread(target=self._watch, name='watchdog', daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self, phase: str, *, budget: float = 0.0) -> None:
        """Say that something moved, and what comes next; ``budget`` seconds for it if that may take longer."""
        self.phase, self.budget, self.idle = phase, max(budget, self.default), 0.0

    def _watch(self) -> None:
        tick = self.default / CHECKS
        last = time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            self.idle += min(now - last, 2 * tick)
            last = now
            if self.idle >= self.budget:
                self._end()

    def _end(self) -> None:
        path = self.folder / f'hang-{os.getpid()}.txt'
        with path.open('w') as out:
            print(f'no progress for {self.idle:.0f} s in: {self.phase}', file=out, flush=True)
            faulthandler.dump_traceback(out, all_threads=True)
        print(
            f'no progress for {self.idle:.0f} s in: {self.phase}. The stacks of all threads are in {path}. '
            'The last checkpoint is sound: go on with --resume_from_checkpoint last',
            file=sys.stderr,
            flush=True,
        )
        os._exit(HangError.exit_code)  # the thread that hangs would never see an exception
