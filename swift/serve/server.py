"""Sockets, signals and the end: uvicorn around the application.

SIGTERM and SIGINT: /ready says 503, nothing new is begun, what is under way goes on until it ends or --drain is over.
Then answers that are left are cut off with an honest error, and the process exits with 0. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import uvicorn

from swift.core.errors import SwiftError
from swift.core.log import get_logger
from swift.serve import connection
from swift.serve.house import House
from swift.serve.place import Place

TICK = 0.1
LAG_TICK = 0.25
CUT_SECONDS = 2.0  # for errors to reach the clients whose answers are cut off


class Server(uvicorn.Server):
    """uvicorn's, whose first signal drains."""

    def __init__(self, app: Any, house: House, place: Place):
        super().__init__(_config(app, house, place))
        self._house, self._place = house, place
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal, and until what was under way has ended."""
        async with _beside(_measure_lag(self._house), _report(self._house, self._place.log_interval)):
            await self.serve(sockets=[listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; at the second signal end at once."""
        if self._house.draining or self._loop is None:
            self.should_exit = True
            self.force_exit = self._loop is None
            return
        self._house.draining = True
        self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        busy = sum(call.method == 'POST' for call in self._house.open)
        get_logger().info('ending: %d requests have up to %.0f s', busy, self._place.drain)
        await self._until_idle(self._place.drain)
        self._house.cut()
        await self._until_idle(CUT_SECONDS)
        self.should_exit = True

    async def _until_idle(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while any(call.method == 'POST' for call in self._house.open) and time.monotonic() < end:
            if self.should_exit:
                return
            await asyncio.sleep(TICK)


def _config(app: Any, house: House, place: Place) -> uvicorn.Config:
    bounds = house.bounds
    logging.getLogger('uvicorn').setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=connection.protocol(bounds),
        ws='none',
        lifespan='off',
        loop='asyncio',
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=place.certfile,
        ssl_keyfile=place.keyfile,
        timeout_keep_alive=bounds.idle_seconds,
        timeout_graceful_shutdown=int(CUT_SECONDS),
        h11_max_incomplete_event_size=bounds.header_bytes,
        backlog=bounds.connections,
    )


# ------------------------------------------------------------------------------------------------------ beside it all
@contextlib.asynccontextmanager
async def _beside(*coroutines: Any) -> AsyncIterator[None]:
    """Run these as long as the block does."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _measure_lag(house: House) -> None:
    """How late the event loop is: nothing that blocks goes unseen."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(LAG_TICK)
        house.lag = max(0.0, time.monotonic() - before - LAG_TICK)


async def _report(house: House, interval: float) -> None:
    """A line of numbers now and then, while there is something to say."""
    if interval <= 0:
        return
    before, tokens = time.monotonic(), 0.0
    while True:
        await asyncio.sleep(interval)
        with contextlib.suppress(SwiftError):
            stats = house.chat.engine.stats()
            now, said = time.monotonic(), stats.get('answer_tokens', 0.0)
            if said != tokens or house.open:
                rate = max(0.0, said - tokens) / (now - before)
                get_logger().info(
                    '%d requests open, %d waiting, %.1f tokens/s', len(house.open), house.gate.waiting, rate
                )
            before, tokens = now, said
