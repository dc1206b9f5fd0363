"""A connection to a server that speaks JSON over HTTP: calls, streams of events, and errors in our words.

One thread with an event loop carries all requests, so that callers with and without a loop of their own share it.
A request is sent again only where the server cannot have begun to answer it: nobody listened, or it said that it is
busy (429, 503), and then when it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from swift.core.errors import ConfigError, HangError, RequestError, SwiftError, UnavailableError

CONNECT, LOOK = 10.0, 2.0  # seconds for a connection, and for a look whether the server is there
DYING, LOOK_AGAIN = 6.0, 0.1  # seconds in which a server of ours that fails or hangs up is seen to end
BUSY = (429, 503)
AGAIN = 5  # times that a request is sent
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before it is sent again; doubled each time
LONGEST_EVENT = 64 << 20  # bytes
LONGEST_ERROR = 2000  # characters of an error that are shown
DONE = '[DONE]'
WANTED = 'expected http:// or https://, a host, and perhaps a port and a path: http://127.0.0.1:8000'


class Connection:
    """Calls of one server.

    Args:
        url: Where it is, without the path of a call.
        key: Sent as ``Authorization: Bearer``.
        socket: A Unix socket that it listens on, instead of the host of ``url``.
        timeout: Seconds without a byte after which a call fails.
        failure: Of a server that is ours: why it has ended; None while it runs.

    Raises:
        ConfigError: ``url`` is none.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        socket: Path | None = None,
        timeout: float = 600.0,
        failure: Callable[[], SwiftError | None] | None = None,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise ConfigError(f'{url!r} is no URL of a server: {WANTED}')
        self.url = url.rstrip('/')
        self._failure = failure
        self._timeout = timeout
        local = socket is not None or parts.hostname in ('127.0.0.1', '::1', 'localhost')
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={'Authorization': f'Bearer {key}'} if key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=httpx.AsyncHTTPTransport(uds=str(socket)) if socket else None,
            trust_env=not local,  # a proxy does not know our loopback
        )
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name='swift-connection', daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _close, self._loop, self._client, thread)

    def start(self, work: Coroutine[Any, Any, Any]) -> Future:
        """Run a coroutine on the thread of this connection."""
        if not self.close.alive:
            work.close()
            raise SwiftError(f'the connection to {self.url} is closed')
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def answers(self, path: str) -> bool:
        """Whether the server answers a plain get at once, and well."""

        async def look() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await self._client.get(path, timeout=LOOK)).is_success
            return False

        return self.start(look()).result()

    def call(self, path: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """Post ``body``, or get without one, and wait for the JSON of the answer (its text where it is none).

        Raises:
            RequestError: the server says that the request is wrong.
            ConfigError: it refuses the key.
            HangError: it does not answer in time.
                UnavailableError: it cannot be reached, is busy, or has ended.
            SwiftError: it failed.
        """
        return self.start(self.ask(path, body, timeout=timeout)).result()

    async def ask(self, path: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """``call`` for coroutines on the thread of this connection."""
        async with self._answer(path, body, timeout) as response:
            await response.aread()
            with contextlib.suppress(ValueError):
                return response.json()
            return response.text

    async def events(self, path: str, body: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The server-sent events of an answer to a post. Raises as ``call`` does; leaving early hangs up."""
        async with self._answer(path, body, None) as response:
            async for text in _events(response):
                event = json.loads(text)
                if event.get('error'):  # after the first byte there is no other way to say it
                    await self._refuse(_code(event), event)
                yield event

    @contextlib.asynccontextmanager
    async def _answer(self, path: str, body: Any, timeout: float | None) -> AsyncIterator[httpx.Response]:
        """An answer that is no error, its body unread."""
        method = 'GET' if body is None else 'POST'
        patience = httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
        for wait in (*(FIRST_WAIT * 2**i for i in range(AGAIN - 1)), None):
            try:
                async with self._client.stream(method, path, json=body, timeout=patience) as response:
                    if response.is_success:
                        yield response
                        return
                    await response.aread()
                    if response.status_code not in BUSY or wait is None:
                        await self._refuse(response.status_code, _parsed(response.text))
                    wait = _retry_after(response, wait)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if wait is None or (self._failure is not None and self._failure() is not None):
                    raise await self._broken(error) from error
            except httpx.TimeoutException as error:
                raise HangError(f'{self.url}{path} sent nothing for {timeout or self._timeout:.0f} s') from error
            except httpx.TransportError as error:
                raise await self._broken(error) from error
            await asyncio.sleep(wait)

    async def _broken(self, error: httpx.TransportError) -> SwiftError:
        """Why there is no connection, or none any more."""
        if (reason := await self._dying()) is not None:
            return reason
        what = 'cannot be reached' if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else 'hung up'
        return UnavailableError(f'{self.url} {what}: {str(error) or type(error).__name__}')

    async def _dying(self) -> SwiftError | None:
        """Why a server of ours ended, or is ending: that it fails is heard first, and that it has ended seen later."""
        for _ in range(int(DYING / LOOK_AGAIN) if self._failure is not None else 0):
            if (reason := self._failure()) is not None:
                return reason
            await asyncio.sleep(LOOK_AGAIN)
        return None

    async def _refuse(self, status: int, found: Any) -> NoReturn:
        """Raise what an answer with an error means."""
        text, param = _reason(found)
        if status in (401, 403):
            raise ConfigError(f'{self.url} refuses the key (--api_key): {text}')
        if status in (408, 504):
            raise HangError(f'{self.url} gave up: {text}')
        if status in BUSY:
            raise UnavailableError(f'{self.url} is busy ({status}), and was after {AGAIN} tries: {text}')
        if 400 <= status < 500:
            raise RequestError(text, param=param)
        raise await self._dying() or SwiftError(f'{self.url} failed with {status}: {text}')


def _close(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient, thread: threading.Thread) -> None:
    """Cancel what is open, hang up, and end the thread."""

    async def leave() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.aclose()

    if threading.current_thread() is not thread:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(leave(), loop).result(CONNECT)
    loop.call_soon_threadsafe(loop.stop)


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of server-sent events, until the last one."""
    held = b''
    async for chunk in response.aiter_bytes():
        *lines, held = (held + chunk).replace(b'\r\n', b'\n').split(b'\n')
        if len(held) > LONGEST_EVENT:
            raise SwiftError(f'{response.url} sends an event of more than {LONGEST_EVENT} bytes')
        for line in lines:
            if line.startswith(b'data:'):
                data = line[5:].strip().decode()
                if data == DONE:
                    return
                yield data


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _reason(found: Any) -> tuple[str, str | None]:
    """(message, name of the field that is wrong) of an error in the forms that servers use."""
    error = found.get('error', found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return str(error)[:LONGEST_ERROR] or 'it gave no reason', None
    text = error.get('message') or error.get('detail') or json.dumps(error)
    return str(text)[:LONGEST_ERROR], error.get('param')


def _code(event: dict[str, Any]) -> int:
    """The status that an error inside a stream stands for."""
    error = event['error']
    code = error.get('code') if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _retry_after(response: httpx.Response, wait: float) -> float:
    """Seconds that the server asks for, if it does and is modest."""
    try:
        return min(float(response.headers['Retry-After']), LONGEST_WAIT)
    except (KeyError, ValueError):
        return wait
