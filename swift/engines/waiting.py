"""Waiting for pieces, with and without an event loop: what every engine that delivers by a call shares.

A subclass has ``begin(request, deliver)``, which queues a request, and ``abort(id)``. ``deliver`` is called from any
thread with each piece, and last with None or with what the request failed with.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator

from swift.core.errors import SwiftError
from swift.core.types import Piece, Request

Deliver = Callable[[Piece | BaseException | None], object]


class Waiting(ABC):
    """Gives an engine its ``submit`` and ``stream``. Whoever leaves an iterator early aborts the request."""

    @property
    def ready(self) -> bool:
        """Whether a step was finished lately, or there was nothing to do. Engines that can tell say so themselves."""
        return True

    @abstractmethod
    def begin(self, request: Request, deliver: Deliver) -> None:
        """Queue a request. Raises RequestError when it is not valid, SwiftError when nothing can be answered."""

    @abstractmethod
    def abort(self, id: str) -> None:
        """End a request at the next step. Unknown ids are fine."""

    def submit(self, request: Request) -> AsyncIterator[Piece]:
        """Queue a request now. Leaving the iterator early, or cancelling its task, aborts the request.

        Raises:
            RequestError: the request is not valid.
            SwiftError: the engine is closed or dead; while iterating: whatever the request failed with.
        """
        pieces: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.begin(request, lambda item: loop.call_soon_threadsafe(pieces.put_nowait, item))
        return self._relay(request.id, pieces)

    def stream(self, request: Request) -> Iterator[Piece]:
        """``submit`` for callers without an event loop."""
        pieces: queue.SimpleQueue = queue.SimpleQueue()
        self.begin(request, pieces.put)
        return self._drain(request.id, pieces)

    async def _relay(self, id: str, pieces: asyncio.Queue) -> AsyncIterator[Piece]:
        with self._aborting(id):
            while (item := await pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item

    def _drain(self, id: str, pieces: queue.SimpleQueue) -> Iterator[Piece]:
        with self._aborting(id):
            while (item := pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item

    @contextlib.contextmanager
    def _aborting(self, id: str) -> Iterator[None]:
        """Abort the request if its waiter leaves before the end."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(SwiftError):
                self.abort(id)
            raise
