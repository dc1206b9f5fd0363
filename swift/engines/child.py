"""An engine in a process of its own, watched: when it dies or stalls, requests fail honestly and it starts again.

    ChildEngine  --frames over a socket pair-->  child_main  -->  the engine that the recipe names

The child holds the model, so that a crash in it takes nothing else along, and another environment can be its home.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.core.errors import HangError, ModelError, SwiftError, UnavailableError
from swift.core.log import get_logger
from swift.core.types import Piece, Request
from swift.engines import wire
from swift.engines.waiting import Deliver, Waiting

TICK = 0.25  # seconds between two looks at the child
STEP = 1.0  # seconds that a step may well take
LATELY = 9.0  # seconds without a step, or without a sign of life, after which the engine is not ready
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds before another start; doubled after each that did not live long
HEALTHY = 60.0  # seconds of life after which earlier deaths are forgotten
PATIENCE = 10.0  # seconds that a child may take to end when it is asked to


@dataclass(frozen=True)
class Recipe:
    """Which engine to open: ``module:function`` of an installed module, and its arguments as JSON values."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class ChildEngine(Waiting):
    """Implements ``core.types.Engine`` for an engine that runs elsewhere.

    Args:
        recipe: what to open.
        python: the interpreter of the environment that the engine lives in.
        environ: more environment variables for it.
        stall: seconds without a step, while there is work, or without a sign of life, after which it is killed.

    Raises (from ``wait``):
        SwiftError: the engine could not be opened at all; nothing is started again then.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        python: str | None = None,
        environ: Mapping[str, str] | None = None,
        stall: float = 120.0,
    ):
        self._recipe, self._python, self._environ = recipe, python or sys.executable, dict(environ or {})
        self._stall = stall
        self._lock = threading.Lock()
        self._open: dict[str, Deliver] = {}
        self._aborted: set[str] = set()
        self._calls: dict[int, Future] = {}
        self._numbers = itertools.count()
        self._adapters: dict[str, str] = {}
        self._counts: dict[str, int] = dict.fromkeys(('accepted', 'finished', 'aborted', 'failed', 'starts'), 0)
        self._child: _Child | None = None
        self._first: Future[None] = Future()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='swift-engine-watchdog', daemon=True)
        self._thread.start()

    # --------------------------------------------------------------------------------------------------- requests
    def begin(self, request: Request, deliver: Deliver) -> None:
        """Queue a request. Raises UnavailableError while no engine lives."""
        with self._lock:
            child = self._living()
            if request.id in self._open:
                raise SwiftError(f'request id {request.id!r} is in use')
            self._counts['accepted'] += 1
            self._open[request.id] = deliver
            child.send(['begin', wire.request_out(request)])

    def abort(self, id: str) -> None:
        """End a request at the next step. Unknown ids are fine."""
        with self._lock:
            if id in self._open and self._child is not None:
                self._aborted.add(id)
                self._child.send(['abort', id])

    def _living(self) -> _Child:
        if self._closing.is_set():
            raise SwiftError('the engine is closed')
        if self._child is None or not self._child.ready:
            raise UnavailableError('the engine is being started; try again in a few seconds')
        return self._child

    # ---------------------------------------------------------------------------------------------------- adapters
    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that requests can give; they are loaded again when the engine is started again."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, path: Path) -> None:
        """Put an adapter beside the others. Raises ModelError."""
        self.call('load_adapter', name, str(path))
        self._adapters[name] = str(path)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ModelError."""
        self.call('unload_adapter', name)
        self._adapters.pop(name, None)

    def update(self, weights: Iterable[Any]) -> None:
        """Not across processes."""
        raise ModelError('weights cannot be changed in another process; open the engine in this one')

    def call(self, name: str, *arguments: Any) -> Any:
        """What a method of the engine, one of ``child_main.CALLS``, gives for JSON values. Raises what it raises."""
        future: Future = Future()
        with self._lock:
            number = next(self._numbers)
            self._calls[number] = future
            self._living().send(['call', number, name, arguments])
        return future.result()

    # -------------------------------------------------------------------------------------------------------- life
    def wait(self, timeout: float | None = None) -> None:
        """Return when the engine is ready for the first time. Raises what kept it from being opened, or HangError."""
        try:
            self._first.result(timeout)
        except TimeoutError:
            raise HangError(f'the engine is not ready after {timeout:.0f} s') from None

    @property
    def ready(self) -> bool:
        """Whether the engine lives and, if it has work, finished a step lately."""
        child = self._child
        if child is None or not child.ready:
            return False
        return max(child.silent, child.stuck) < LATELY

    @property
    def pid(self) -> int | None:
        """The process, for those who watch it from outside."""
        return None if self._child is None else self._child.process.pid

    def stats(self) -> dict[str, float]:
        """What the engine says of itself, a moment old, and counters over all its lives."""
        child = self._child
        own = {**self._counts, 'open': len(self._open), 'restarts': max(0, self._counts['starts'] - 1)}
        if child is None:
            return {**own, 'heartbeat_age': float('inf')}
        return {'step_age': 0.0, **child.stats, **own, 'heartbeat_age': child.silent}

    def close(self) -> None:
        """Abort what is open and end the process."""
        self._closing.set()
        self._thread.join(PATIENCE + 5)
        if self._thread.is_alive():
            raise HangError('the engine does not end')

    # ---------------------------------------------------------------------------------------------------- watchdog
    def _watch(self) -> None:
        """The life of the thread: start the engine, read what it says, start it again when it is gone."""
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            began = time.monotonic()
            reason = self._live()
            self._fail_all(reason)
            if self._closing.is_set() or (self._first.done() and self._first.exception()):
                break
            pause = FIRST_PAUSE if time.monotonic() - began > HEALTHY else min(pause * 2, LONGEST_PAUSE)
            get_logger().warning('%s It is started again in %.1f s.', reason, pause)
            self._closing.wait(pause)
        if not self._first.done():
            self._first.set_exception(SwiftError('the engine is closed'))

    def _live(self) -> SwiftError:
        """One life of the engine. Returns why it ended."""
        child = _Child(self._recipe, self._adapters, self._python, self._environ)
        with self._lock:
            self._child = child
            self._counts['starts'] += 1
        try:
            while not self._closing.is_set():
                for message in child.hear(TICK):
                    if (reason := self._handle(child, message)) is not None:
                        return reason
                if (reason := self._diagnose(child)) is not None:
                    return reason
            return SwiftError('the engine is closed')
        except (OSError, ValueError) as error:
            return UnavailableError(f'the engine sent what cannot be read ({error}).')
        finally:
            with self._lock:
                self._child = None
            child.end(gently=self._closing.is_set())

    def _diagnose(self, child: _Child) -> SwiftError | None:
        """Why this life is over, if it is."""
        if child.gone:
            return UnavailableError(f'the engine died ({child.how()}).')
        if max(child.silent, child.stuck) > self._stall:
            return UnavailableError(f'the engine made no step for {self._stall:.0f} s and was killed.')
        return None

    def _handle(self, child: _Child, message: list[Any]) -> SwiftError | None:
        """Act upon what the engine says. Returns why it cannot live, if it says so."""
        kind, *rest = message
        if kind == 'pieces':
            for id, item in rest[0]:
                self._deliver(id, wire.item_in(item))
        elif kind == 'stats':
            child.stats = rest[0]
        elif kind == 'ready':
            child.ready = True
            for name in rest[0]:
                self._adapters.setdefault(name, '')
            if not self._first.done():
                self._first.set_result(None)
        elif kind == 'answer':
            self._answer(*rest)
        elif kind == 'failed':
            error = wire.error_in(rest[0])
            if not self._first.done():
                self._first.set_exception(error)
            return UnavailableError(f'the engine could not be opened: {error}')
        return None

    def _deliver(self, id: str, item: Piece | BaseException | None) -> None:
        ended = not isinstance(item, Piece)
        with self._lock:
            deliver = self._open.get(id)
            if deliver is not None and ended:
                self._end(id, 'failed' if item is not None else 'aborted' if id in self._aborted else 'finished')
        if deliver is not None:
            _tell(deliver, item)

    def _end(self, id: str, how: str) -> None:
        del self._open[id]
        self._aborted.discard(id)
        self._counts[how] += 1

    def _answer(self, number: int, value: Any, error: dict[str, Any] | None) -> None:
        future = self._calls.pop(number)
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(wire.error_in(error))

    def _fail_all(self, reason: SwiftError) -> None:
        """Tell everybody who waits."""
        with self._lock:
            waiting = dict(self._open)
            for id in waiting:
                self._end(id, 'aborted' if id in self._aborted else 'failed')
            calls, self._calls = self._calls, {}
        for deliver in waiting.values():
            _tell(deliver, reason)
        for future in calls.values():
            future.set_exception(reason)


def _tell(deliver: Deliver, item: Any) -> None:
    """Deliver; a waiter whose event loop is closed cannot be told, and that is all right."""
    with contextlib.suppress(RuntimeError):
        deliver(item)


class _Child:
    """One process: its socket, a thread that writes to it, and what is known of it."""

    def __init__(self, recipe: Recipe, adapters: Mapping[str, str], python: str, environ: Mapping[str, str]):
        self.ready = False
        self.gone = False
        self.stats: dict[str, float] = {}
        self.silent = 0.0  # seconds without a word, of those in which we were awake ourselves
        self.stuck = 0.0  # such seconds in which it had work and finished no step, or said it is not ready
        self._frames = wire.Frames()
        self._out: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._ours, theirs = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._ours, select.POLLIN)
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
        with theirs:
            self.process = subprocess.Popen(
                [python, '-m', 'swift.engines.child_main', str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, 'PYTHONPATH': paths, **environ},
                start_new_session=True,
            )
        threading.Thread(target=self._write, name='swift-engine-sender', daemon=True).start()
        given = {name: path for name, path in adapters.items() if path}
        self.send(['open', {'target': recipe.target, 'arguments': dict(recipe.arguments), 'adapters': given}])

    def send(self, message: list[Any] | None) -> None:
        """Queue a message; never waits."""
        self._out.put(message)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # whoever reads sees the end of the connection
            while (message := self._out.get()) is not None:
                self._ours.sendall(wire.frame(message))

    def hear(self, timeout: float) -> list[list[Any]]:
        """The messages that come within ``timeout``. A time in which this process itself was stopped does not count."""
        began = time.monotonic()
        readable = self._poll.poll(timeout * 1000)
        awake = min(time.monotonic() - began, 2 * timeout)
        self.silent += awake
        at_work = self.stats.get('step_age', 0.0) <= STEP and self.stats.get('ready', 1.0)
        self.stuck = 0.0 if at_work else self.stuck + awake
        if not readable:
            return []
        data = self._ours.recv(1 << 18)
        self.gone = not data
        messages = list(self._frames.push(data))
        if messages:
            self.silent = 0.0
        return messages

    def how(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.process.wait(2)
        except subprocess.TimeoutExpired:
            return 'its connection ended'
        return f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'

    def end(self, *, gently: bool) -> None:
        """Make sure that the process and all it started are gone."""
        if gently and not self.gone:
            self.send(['close'])
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                get_logger().warning('the engine did not end by itself and is killed')
        self.send(None)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._ours.close()
