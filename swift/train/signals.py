"""SIGTERM, SIGINT and SIGUSR1, turned into wishes that the training loop grants between two steps.

    with Signals() as signals:                 # from the first line of the command: a signal ends it at once
        ...                                    # loading, tokenising: there is nothing to save
        with signals.deferred():               # the loop: a signal is remembered
            for micro in source:
                step(micro)
                signals.obey(save)             # SIGUSR1: save and go on; SIGTERM, SIGINT: save and raise Interrupted

A second SIGTERM or SIGINT ends the process at once, even in the middle of a long step: the first one gives the
signal back to the operating system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from swift.core.errors import Interrupted

logger = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
SAVE = signal.SIGUSR1


class Signals:
    """What the outside asked for. Not entered, or entered outside the main thread, it never asks for anything."""

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self.save = False
        self._deferred = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (*STOP, SAVE)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this block a signal waits for ``obey`` instead of ending the process."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def obey(self, save: Callable[[], Path | None]) -> None:
        """Grant what was asked since the last call.

        Args:
            save: saves a checkpoint of this very step unless there is one; returns it, or None if the run saves none.

        Raises:
            Interrupted: after saving, with exit code 143 (SIGTERM) or 130 (SIGINT).
        """
        if not self.save and self.stop is None:
            return
        self.save = False
        folder = save()
        if self.stop is not None:
            kept = (
                f'state saved in {folder}; go on with --resume_from_checkpoint {folder}' if folder else 'nothing saved'
            )
            raise Interrupted(f'stopped by {self.stop.name}: {kept}', 128 + self.stop)
        logger.info('SIGUSR1: state saved in %s', folder)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == SAVE:
            self.save = self._deferred
            _say(f'{name}: saving after this step' if self._deferred else f'{name}: no step yet, nothing to save')
        elif not self._deferred:
            _say(f'stopped by {name} before the first step; nothing to save')
            raise SystemExit(128 + number)  # not an Exception: no handler on the way may swallow it
        else:
            self.stop = signal.Signals(number)
            for each in STOP:
                signal.signal(each, signal.SIG_DFL)
            _say(f'{name}: stopping after this step; once more stops at once')


def _say(text: str) -> None:
    """Print from a signal handler, where a buffered stream or a logger may be half-way through a line."""
    with contextlib.suppress(OSError):
        os.write(2, f'\n{text}\n'.encode())
