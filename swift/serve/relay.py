"""The chat page over a server that runs already: what the page asks is passed on, and so is the answer, as it comes.

``Relay`` is what the door and the sockets need to know of a server, without a server; ``passing`` is the application
behind that door. When the page leaves, the connection is closed, so that the other server can stop as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from swift.core.log import get_logger
from swift.serve.auth import Keys
from swift.serve.bounds import Bounds
from swift.serve.call import Call
from swift.serve.errors import ApiError, invalid, later

PASSED = {('GET', '/v1/models'), ('POST', '/v1/chat/completions')}
KEPT = ('content-type', 'retry-after', 'x-request-id')  # headers of an answer that are passed on
CONNECT = 5.0  # seconds


@dataclass
class Relay:
    """A server elsewhere, as far as door and sockets have to know (see ``house.House``).

    ``url`` is its address with the ``/v1`` that clients of OpenAI write, ``key`` is sent where the page sends none.
    Only this machine is served: whoever reaches the page may use the key.
    """

    url: str
    key: str | None = None
    bounds: Bounds = field(default_factory=Bounds)
    keys: Keys = field(default_factory=lambda: Keys(()))
    draining: bool = False
    open: set[Call] = field(default_factory=set)
    lag: float = 0.0

    @property
    def body_limit(self) -> int:
        """Bytes that a body may have."""
        return self.bounds.media_body_bytes

    def refuse_work(self, call: Call) -> None:
        """Raises ApiError 503 where nothing new is begun."""
        if self.draining and call.method == 'POST':
            raise later('the page is about to end', 'draining', 5)

    def begin(self, call: Call) -> None:
        """A request has come."""
        self.open.add(call)

    def end(self, call: Call) -> None:
        """A request has ended."""
        self.open.discard(call)

    def cut(self) -> None:
        """Nothing of ours answers, so there is nothing to abort."""


def passing(relay: Relay) -> Any:
    """The ASGI application that passes on what the page needs."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        call = scope['state']['call']
        if (call.method, call.path) not in PASSED:
            raise ApiError(404, f'there is no {call.path[:200]}', 'not_found')
        headers = {name.decode('latin-1'): value.decode('latin-1') for name, value in scope['headers']}
        if call.method == 'POST' and headers.get('content-type', '').partition(';')[0].strip() != 'application/json':
            raise invalid('send the body with Content-Type: application/json', code='not_json', status=415)
        body = (await receive()).get('body', b'')
        async with _answer(relay, call, headers, body) as response:
            kept = [(name.encode(), response.headers[name].encode()) for name in KEPT if name in response.headers]
            await send({'type': 'http.response.start', 'status': response.status_code, 'headers': kept})
            async for data in response.aiter_raw():
                await send({'type': 'http.response.body', 'body': data, 'more_body': True})
            await send({'type': 'http.response.body', 'body': b''})

    return app


@contextlib.asynccontextmanager
async def _answer(relay: Relay, call: Call, headers: dict[str, str], body: bytes) -> AsyncIterator[httpx.Response]:
    """The other server's answer. Raises ApiError 503: it does not give one."""
    key = {'authorization': f'Bearer {relay.key}'} if relay.key else {}
    sent = {name: headers[name] for name in ('content-type', 'authorization') if name in headers}
    local = urlsplit(relay.url).hostname in ('127.0.0.1', '::1', 'localhost')  # a proxy does not know our loopback
    timeout = httpx.Timeout(relay.bounds.deadline, connect=CONNECT)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=not local) as client,
            client.stream(
                call.method,
                relay.url.rstrip('/') + call.path.removeprefix('/v1'),
                content=body,
                headers={**key, **sent, 'accept-encoding': 'identity'},
            ) as response,
        ):
            yield response
    except httpx.HTTPError as error:
        get_logger().warning('%s: %s', relay.url, type(error).__name__)
        raise later(f'the server at {relay.url} does not answer', 'unreachable', 5) from error
