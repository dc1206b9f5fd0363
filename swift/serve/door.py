"""The door: everything that is decided before a route runs, and the one place that learns that a client has left.

scope -> count and name the call -> who is it? -> read the body, bounded -> run the route -> log, audit, metrics
                                                                              \\-- cancelled when the client leaves
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from swift.core.log import get_logger
from swift.serve.call import Call
from swift.serve.errors import ApiError, fault, invalid, later
from swift.serve.house import House

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = frozenset({'/health', '/ready', '/live', '/version', '/ping'})
"""Routes that tell nothing worth a key."""
POLITE_SECONDS = 5.0  # how long the rest of a refused body is read, so that the client sees why
LEFT = (408, 499)  # of clients that send nothing more
LOCAL_NAMES = ('localhost', '')


class Door:
    """ASGI middleware around the routes."""

    def __init__(self, app: Any, house: House):
        self._app, self._house = app, house
        self._large: set[Call] = set()  # with bodies that only pictures make so large

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http':
            return
        client = scope.get('client')
        call = Call(scope['method'], scope['path'], client[0] if client else '')
        answer = _Answer(send, call)
        scope['state'] = {**scope.get('state', {}), 'call': call}
        self._house.begin(call)
        try:
            await self._serve(scope, receive, answer, call)
        except ApiError as error:
            await answer.refuse(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            get_logger().exception('a fault of the server itself in %s %s (%s)', call.method, call.path, call.id)
            await answer.refuse(fault(call.id))
        finally:
            self._large.discard(call)
            self._house.end(call)

    async def _serve(self, scope: Message, receive: Receive, answer: _Answer, call: Call) -> None:
        try:
            self._let_in(scope, call)
            body = await self._read(scope, receive, call)
        except ApiError as error:
            if error.status not in LEFT:
                await self._discard(receive)
            raise
        await self._run(scope, receive, answer, call, body)

    # ------------------------------------------------------------------------------------------------------- refusals
    def _let_in(self, scope: Message, call: Call) -> None:
        """Headers, host and key. Raises ApiError."""
        bounds, headers = self._house.bounds, scope['headers']
        if _header(headers, b'transfer-encoding') is not None and _header(headers, b'content-length') is not None:
            raise invalid('both Content-Length and Transfer-Encoding: what follows is unclear', code='invalid_http')
        size = sum(len(name) + len(value) + 4 for name, value in headers) + len(scope['raw_path'])
        if len(headers) > bounds.headers or size + len(scope['query_string']) > bounds.header_bytes:
            raise invalid(
                f'at most {bounds.headers} headers of {bounds.header_bytes} bytes together',
                code='headers_too_large',
                status=431,
            )
        if call.path in OPEN:
            return
        call.key = self._house.keys.find(_header(headers, b'authorization'), _header(headers, b'x-api-key'))
        if not self._house.keys and not _is_local(_header(headers, b'host')):
            raise ApiError(403, 'without API keys only this machine is served, under its own name', 'wrong_host')
        self._house.refuse_work(call)

    async def _read(self, scope: Message, receive: Receive, call: Call) -> bytes:
        """The body, within its bounds of size and time. Raises ApiError."""
        bounds, limit = self._house.bounds, self._house.body_limit
        declared = _header(scope['headers'], b'content-length')
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(bounds.body_seconds):
                while True:
                    message = await receive()
                    if message['type'] == 'http.disconnect':
                        raise ApiError(499, 'the client left', 'client_left')
                    body += message.get('body', b'')
                    if len(body) > limit:
                        raise _too_large(limit)
                    if len(body) > bounds.body_bytes and call not in self._large:
                        if len(self._large) >= bounds.large_bodies:
                            raise later('too many large requests are under way', 'large_bodies', 5)
                        self._large.add(call)
                    if not message.get('more_body'):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f'no whole body within {bounds.body_seconds:g} s', 'request_timeout') from None

    async def _discard(self, receive: Receive) -> None:
        """Read and forget what a refused client still sends: it looks for the answer only then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLITE_SECONDS):
                while (message := await receive())['type'] != 'http.disconnect' and message.get('more_body'):
                    pass

    # ------------------------------------------------------------------------------------------------------------ run
    async def _run(self, scope: Message, receive: Receive, answer: _Answer, call: Call, body: bytes) -> None:
        """Run the route, unless the client leaves: then cancel it, and with it all that it waits for."""
        given = [body]

        async def feed() -> Message:
            if given:
                return {'type': 'http.request', 'body': given.pop(), 'more_body': False}
            return await asyncio.get_running_loop().create_future()  # this door tells when the client leaves

        route = asyncio.ensure_future(self._app(scope, feed, answer))
        left = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({route, left}, return_when=asyncio.FIRST_COMPLETED)
            if not route.done():
                call.gone = True
        finally:
            left.cancel()
            if not route.done():
                route.cancel()
                await asyncio.wait({route})
        if not call.gone:
            await route


class _Answer:
    """Sends what the route says, and remembers what it was."""

    def __init__(self, send: Send, call: Call):
        self._send, self._call = send, call

    async def __call__(self, message: Message) -> None:
        if message['type'] == 'http.response.start':
            self._call.status = message['status']
            message['headers'] = [*message.get('headers', ()), (b'x-request-id', self._call.id.encode())]
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, where nothing was answered yet."""
        self._call.code = error.code
        if self._call.status is not None:
            return
        body = json.dumps(error.body(self._call.path), ensure_ascii=False).encode()
        headers = {'content-type': 'application/json', 'content-length': str(len(body)), **error.headers}
        if error.status in (408, 413, 431, 499) or error.code == 'invalid_http':
            headers['connection'] = 'close'
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({'type': 'http.response.start', 'status': error.status, 'headers': pairs})
        await self({'type': 'http.response.body', 'body': body})


async def _until_gone(receive: Receive) -> None:
    while (await receive())['type'] != 'http.disconnect':
        pass


def _too_large(limit: int) -> ApiError:
    return invalid(f'the body has more than {limit} bytes', code='body_too_large', status=413)


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode('latin-1') for each, value in headers if each == name), None)


def _is_local(host: str | None) -> bool:
    """Whether a Host header names this machine or an address: names of others lead here by a trick with DNS."""
    name = (host or '').rsplit(':', 1)[0] if not (host or '').endswith(']') else host or ''
    name = name.strip('[]').lower()
    if name in LOCAL_NAMES or name.endswith('.localhost'):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
