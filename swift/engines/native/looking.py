"""Pictures of requests become what the model takes, beside the engine's thread and a little ahead of it.

Pixels as numbers are many times larger than their files, so only a few requests have theirs at a time: the room of one
is free again when nobody holds what was made for it, however its request ended.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from swift.core.errors import SwiftError
from swift.core.types import Eye, Request

AHEAD = 2  # requests whose pictures are ready or being read


class Seen(dict[str, Tensor]):
    """What the model takes of a request's pictures."""


class Looking:
    """One thread that looks at pictures."""

    def __init__(self, eye: Eye):
        self._eye = eye
        self._room = threading.Semaphore(AHEAD)
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='swift-eye')

    def begin(self, request: Request) -> Future[Seen]:
        """Look at the pictures of a request; its future may fail with RequestError."""
        return self._pool.submit(self._look, request)

    def _look(self, request: Request) -> Seen:
        self._room.acquire()
        seen = Seen()
        weakref.finalize(seen, self._room.release)
        if self._closed:
            raise SwiftError('the engine is closed')
        seen.update(self._eye.inputs(request.pictures, request.prompt_ids))
        return seen

    def close(self) -> None:
        """Look at nothing more."""
        self._closed = True
        self._room.release()  # of whoever waits for it; the next ones find it free again
        self._pool.shutdown(wait=False, cancel_futures=True)
