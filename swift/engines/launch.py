"""A server of another library in a process of its own, which never outlives us and whose last words are kept.

``Launched(name, command)`` starts it under ``guard.py``; ``wait`` returns when it answers, or raises with the end of
what it wrote. What it writes is read as it comes, so that it never waits for us, and goes to our log at DEBUG.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from swift.core.errors import HangError, SwiftError, UnavailableError
from swift.core.log import get_logger

GUARD = Path(__file__).with_name('guard.py')
KEPT = 40  # lines of output that are kept for an error
LONGEST = 2000  # characters of a line that are kept
POLL, SAY = 0.2, 15.0  # seconds between two looks, and between two lines about the progress
PATIENCE = 20.0  # seconds that the guard gets to end everything


def guarded(command: Sequence[str], scratch: Path) -> list[str]:
    """The command line that runs ``command`` under the guard; give it a pipe as standard input."""
    return [sys.executable, '-S', '-E', str(GUARD), str(scratch), *command]


class Launched:
    """A running command. Closing it, dropping it and dying all end it, with everything that it started.

    Args:
        name: What messages call it: ``vLLM``.
        environ: All variables of the process; secrets go here or into a file, never into ``command``.
        scratch: A folder of its own, deleted when it has ended.
    """

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], scratch: Path):
        self.name = name
        self._lines: deque[str] = deque(maxlen=KEPT)
        try:
            self._guard = subprocess.Popen(
                guarded(command, scratch),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,  # Ctrl-C at our terminal is ours
            )
        except OSError as error:
            raise SwiftError(f'{name} cannot be started: {error}') from error
        self._reader = threading.Thread(
            target=_read, args=(self._guard.stdout, self._lines, name), name=f'{name}-output', daemon=True
        )
        self._reader.start()
        self._dropped = weakref.finalize(self, _end, self._guard)

    def wait(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Return when ``ready`` does, saying now and then that we wait.

        Raises:
            SwiftError: it ended instead.
            HangError: it was not ready in time; it is ended.
        """
        started = said = time.monotonic()
        while not ready():
            if (failure := self.failure()) is not None:
                raise failure
            now = time.monotonic()
            if now - started > seconds:
                words = self.last_words()
                self.close()
                raise HangError(f'{self.name} was not ready after {seconds:.0f} s (--backend_timeout). {words}')
            if now - said > SAY:
                said = now
                last = self._lines[-1] if self._lines else 'no output yet'
                get_logger().info(f'{self.name} is starting, {now - started:.0f} s: {last[-120:]}')
            time.sleep(POLL)

    @property
    def pid(self) -> int:
        """The process above it and everything that it started."""
        return self._guard.pid

    def failure(self) -> UnavailableError | None:
        """Why it does not run any more; None while it runs."""
        code = self._guard.poll()
        if code is None:
            return None
        self._reader.join(PATIENCE)
        ended = f'signal {code - 128}' if code > 128 else f'exit code {code}'
        return UnavailableError(f'{self.name} ended with {ended}. {self.last_words()}')

    def ended(self) -> UnavailableError:
        """Wait until it has ended. Returns why."""
        self._guard.wait()
        reason = self.failure()
        assert reason is not None
        return reason

    def last_words(self) -> str:
        """The end of what it wrote, for an error message."""
        if not self._lines:
            return 'It wrote nothing.'
        return 'The end of what it wrote:\n' + '\n'.join(f'  {line}' for line in self._lines)

    def close(self) -> None:
        """End it and everything that it started; return when they have ended."""
        self._dropped()


def _read(output, lines: deque[str], name: str) -> None:
    log = get_logger()
    for raw in output:
        line = raw.decode(errors='replace').rstrip()[:LONGEST]
        if line:
            lines.append(line)
            log.debug('%s: %s', name, line)
    output.close()


def _end(guard: subprocess.Popen) -> None:
    """Close the pipe, which asks the guard to end everything, and wait for it."""
    guard.stdin.close()
    try:
        guard.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        guard.kill()  # the command dies with it
        guard.wait()


def environment(**changes: str) -> dict[str, str]:
    """Our variables with ``changes``, without those that would mix our packages into another Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'PYTHONHOME')}
    return {**kept, **changes}
