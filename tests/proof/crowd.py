"""Many clients at once on plain sockets: they ask, read as fast or slowly as they like, stay or leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    """What a client got: the status, the text, why it ended, and when (seconds after it asked)."""

    status: int = 0
    text: str = ''
    finish: str | None = None
    error: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    first: float = 0.0
    seconds: float = 0.0
    done: bool = False  # the stream's last words came

    @property
    def whole(self) -> bool:
        """Whether it was answered, to the end."""
        return self.status == 200 and self.done and self.error is None and self.finish is not None


async def ask(
    port: int, body: dict[str, Any], *, key: str = '-', leave_after: float | None = None, pause: float = 0.0
) -> Heard:
    """A chat completion as a stream.

    Args:
        leave_after: seconds after which the client goes away without a word.
        pause: seconds between two reads.
    """
    heard, began = Heard(), time.monotonic()
    with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        async with asyncio.timeout(leave_after), _asked(port, key, {**body, 'stream': True}) as reader:
            await _read(reader, heard, began, pause)
    heard.seconds = time.monotonic() - began
    return heard


@contextlib.asynccontextmanager
async def _asked(port: int, key: str, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        head = 'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n'
        head += f'authorization: Bearer {key}\r\n'
        writer.write(f'{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n'.encode() + data)
        await writer.drain()
        yield reader
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, heard: Heard, began: float, pause: float) -> None:
    head = (await reader.readuntil(b'\r\n\r\n')).decode()
    first, *lines = head.rstrip().split('\r\n')
    heard.status = int(first.split()[1])
    heard.headers = {name.lower(): value for name, value in (line.split(': ', 1) for line in lines)}
    heard.first = time.monotonic() - began
    async for line in reader:
        if pause:
            await asyncio.sleep(pause)
        if line.startswith(b'{'):
            heard.error = json.loads(line).get('error')
        elif line.startswith(b'data: {'):
            _take(json.loads(line[6:]), heard)
        elif line.startswith(b'data: [DONE]'):
            heard.done = True


def _take(event: dict[str, Any], heard: Heard) -> None:
    heard.error = event.get('error', heard.error)
    for choice in event.get('choices', ()):
        heard.text += choice['delta'].get('content') or ''
        heard.finish = choice['finish_reason'] or heard.finish


def together(*clients: Any) -> list[Any]:
    """Run all of them at once."""

    async def run() -> list[Any]:
        return await asyncio.gather(*clients)

    return asyncio.run(run())
