"""A connection that nobody can hold for nothing: uvicorn's own, with limits on slow heads and slow readers.

Where there are as many as there may be, the one on which nothing has happened for longest makes room for the next.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from swift.serve.bounds import Bounds
from swift.serve.errors import ApiError, invalid, later

GRACE = 1.0  # seconds that an idle connection has before it makes room: its head is on the way


def protocol(bounds: Bounds) -> type[H11Protocol]:
    """The class that uvicorn makes a connection of."""
    return type('Connection', (_Connection,), {'bounds': bounds})


class _Connection(H11Protocol):
    bounds: Bounds

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Give the client its time for a head, or send it away."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections and not self._make_room():
            self._say(later('too many connections are open', 'too_many_connections', 5))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._head = _cancelled(self._head)
        self._write = _cancelled(self._write)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Let go of the clock when a head is whole; start it when another begins."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head = _cancelled(self._head)
        elif self.conn.trailing_data[0] and self._head is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """From now on nothing happens, unless another request waits already."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read: it has a while to begin."""
        super().pause_writing()
        if self._write is None:
            self._write = self.loop.call_later(self.bounds.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._write = _cancelled(self._write)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What was sent is no HTTP, or its head is too long."""
        self._say(invalid('the request is no valid HTTP, or its head is too long', code='invalid_http'))

    # ---------------------------------------------------------------------------------------------------------- parts
    @property
    def _is_idle(self) -> bool:
        """Whether no request is under way, nor the whole head of one there."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if one is."""
        connections: list[Any] = [*self.connections]
        oldest = min((each for each in connections if each._is_idle), key=lambda each: each._idle_since, default=self)
        if self.loop.time() - oldest._idle_since < GRACE:
            return False
        oldest.transport.close()
        return True

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.bounds.head_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._say(ApiError(408, f'no whole head within {self.bounds.head_seconds:g} s', 'request_timeout'))

    def _say(self, error: ApiError) -> None:
        """Answer without a request, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = json.dumps(error.body('')).encode()
        headers = {'content-type': 'application/json', 'content-length': str(len(body)), **error.headers}
        head = ''.join(f'{name}: {value}\r\n' for name, value in {**headers, 'connection': 'close'}.items())
        self.transport.write(f'HTTP/1.1 {error.status} \r\n{head}\r\n'.encode() + body)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
