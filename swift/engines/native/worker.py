"""The thread that owns the model: it runs the scheduler's steps, and between two steps what other threads ask of it.

Nobody waits in vain: every call is answered with a result or an exception, also when the thread ends or dies.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch

from swift.core.errors import HangError, SwiftError
from swift.engines.native.scheduler import Scheduler

T = TypeVar('T')
PATIENCE = 60.0  # seconds that ``wait`` waits for the step under way
LIVING: weakref.WeakSet[Worker] = weakref.WeakSet()


class Inbox:
    """Calls from other threads. Once closed it takes no more and says why."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable, Future] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed: SwiftError | None = None

    def put(self, call: tuple[Callable, Future] | None) -> None:
        """Add a call; None asks the thread to end. Raises SwiftError when closed."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._calls.put(call)

    def take(self, *, wait: bool) -> list[tuple[Callable, Future] | None]:
        """All calls there are; with ``wait`` at least one."""
        calls = [self._calls.get()] if wait else []
        while not self._calls.empty():
            calls.append(self._calls.get())
        return calls

    def close(self, reason: SwiftError) -> None:
        """Refuse from now on, what is waiting included."""
        with self._lock:
            self._closed = reason
        for call in self.take(wait=False):
            if call is not None:
                call[1].set_exception(reason)


class Worker:
    """Starts the thread. The thread keeps no reference to this object, so dropping the engine can end it."""

    def __init__(self, scheduler: Scheduler):
        self._inbox = Inbox()
        self._thread = threading.Thread(target=run, args=(scheduler, self._inbox), name='swift-engine', daemon=True)
        self._thread.start()
        LIVING.add(self)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Have ``function`` run between two steps. Raises SwiftError when the thread has ended."""
        future: Future[T] = Future()
        self._inbox.put((function, future))
        return future

    def ask_to_stop(self) -> None:
        """End after the step under way; running requests are aborted."""
        self._inbox.put(None)

    def wait(self) -> None:
        """Return when the thread has ended. Raises HangError."""
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise HangError(f'the engine is still in the same step after {PATIENCE:.0f} s')


@atexit.register
def _end_all() -> None:
    """Wait for all threads: one that is inside C++ when the interpreter ends would take the process down (SIGABRT)."""
    for worker in list(LIVING):
        with contextlib.suppress(SwiftError):  # it has ended before
            worker.ask_to_stop()
    for worker in list(LIVING):
        with contextlib.suppress(HangError):  # then nothing is left to be done
            worker.wait()


def run(scheduler: Scheduler, inbox: Inbox) -> None:
    """The thread's life: calls, step, calls, step ... until it is asked to end."""
    reason = SwiftError('the engine is closed')
    try:
        while True:
            going = [_do(call) for call in inbox.take(wait=not scheduler.busy)]
            if not all(going):
                break
            if scheduler.busy:
                with torch.inference_mode():
                    scheduler.step()
            scheduler.heartbeat = time.monotonic()
        for id in list(scheduler.tickets):
            scheduler.abort(id)
    except BaseException as error:
        reason = SwiftError(f'the engine died: {type(error).__name__}: {error}')
        reason.__cause__ = error
    finally:
        inbox.close(reason)
        scheduler.fail_all(reason)


def _do(call: tuple[Callable, Future] | None) -> bool:
    """Answer one call. Returns whether the thread goes on."""
    if call is None:
        return False
    function, future = call
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
        if not isinstance(error, Exception):
            raise
    return True
