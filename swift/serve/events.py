"""Server-sent events: one JSON value an event, and ``[DONE]`` at the end; or events by the names that their types are.

What cannot be answered is known before the first byte: the first item is there before the response begins. An error
after that is an event of its own, in the same shape.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response

from swift.serve.call import Call
from swift.serve.errors import ApiError

DONE = b'data: [DONE]\n\n'
HEADERS = {'cache-control': 'no-cache', 'x-accel-buffering': 'no'}


class Events(Response):
    """Sends what an iterator gives, and closes it whatever happens."""

    media_type = 'text/event-stream'

    def __init__(self, values: AsyncGenerator[Any, None], first: Any, call: Call, *, named: bool):
        super().__init__(headers=HEADERS)
        del self.headers['content-length']
        self._values, self._first, self._call = values, first, call
        self._event, self._end = (_named, b'') if named else (_event, DONE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The response."""
        async with contextlib.aclosing(self._values):
            await send({'type': 'http.response.start', 'status': 200, 'headers': self.raw_headers})
            try:
                await send(_body(self._event(self._first)))
                async for value in self._values:
                    await send(_body(self._event(value)))
            except ApiError as error:
                self._call.code = error.code
                await send(_body(self._event(error.body(self._call.path))))
            await send({'type': 'http.response.body', 'body': self._end, 'more_body': False})


async def begun(values: AsyncGenerator[Any, None], call: Call, *, named: bool = False) -> Events:
    """The response whose first item is there. Raises ApiError when it never comes.

    Args:
        named: events have the names that the values' ``type`` says, and nothing follows the last one.
    """
    try:
        first = await anext(values)
    except BaseException:
        await values.aclose()
        raise
    return Events(values, first, call, named=named)


def whole(values: AsyncGenerator[Any, None]) -> contextlib.aclosing[AsyncGenerator[Any, None]]:
    """For callers that want everything at once: close the iterator when the block ends."""
    return contextlib.aclosing(values)


def _event(value: Any) -> bytes:
    return b'data: %b\n\n' % json.dumps(value, ensure_ascii=False, separators=(',', ':')).encode()


def _named(value: dict[str, Any]) -> bytes:
    return b'event: %b\n%b' % (value['type'].encode(), _event(value))


def _body(data: bytes) -> dict[str, Any]:
    return {'type': 'http.response.body', 'body': data, 'more_body': True}
