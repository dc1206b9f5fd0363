"""The chat page: files that a browser reads, before an application that answers it.

``Page`` is ASGI around the server's door. The files are open to everybody, since a browser cannot send a key before it
has them; they hold nothing but the page. What the page may do is said in headers: code and style from here alone, no
text ever read as code or HTML (trusted types), no frames, no address told to others.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]

FOLDER = Path(__file__).parent / 'page'
KINDS = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml'}
POLICY = {
    'default-src': "'none'",
    'script-src': "'self'",
    'style-src': "'self'",
    'img-src': "'self'",
    'connect-src': "'self'",
    'base-uri': "'none'",
    'form-action': "'none'",
    'frame-ancestors': "'none'",
    'require-trusted-types-for': "'script'",
    'trusted-types': "'none'",
}
HEADERS = {
    'content-security-policy': '; '.join(f'{name} {value}' for name, value in POLICY.items()),
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'cache-control': 'no-cache',
}


class File(NamedTuple):
    """What a path is answered with."""

    body: bytes
    kind: str
    tag: str


class Page:
    """ASGI: the page's files, and everything else of ``app``.

    Args:
        title: the heading of the page.
        language: zh or en; empty asks the browser.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, title: str, language: str = ''):
        self._app = app
        self._files = {f'/app/{path.name}': _file(path.read_bytes(), path.suffix) for path in FOLDER.iterdir()}
        index = self._files.pop('/app/index.html').body.decode()
        for name, value in (('title', title), ('language', language)):
            index = index.replace(f'{{{{{name}}}}}', html.escape(value))
        self._files['/'] = _file(index.encode(), '.html')

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Serve a file, or ask the application."""
        file = self._files.get(scope['path']) if scope['type'] == 'http' else None
        if file is None or scope['method'] not in ('GET', 'HEAD'):
            await self._app(scope, receive, send)
            return
        known = dict(scope['headers']).get(b'if-none-match') == file.tag.encode()
        body = b'' if known or scope['method'] == 'HEAD' else file.body
        length = {} if known else {'content-length': str(len(file.body))}
        headers = {**HEADERS, 'content-type': f'{file.kind}; charset=utf-8', 'etag': file.tag, **length}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({'type': 'http.response.start', 'status': 304 if known else 200, 'headers': pairs})
        await send({'type': 'http.response.body', 'body': body})


def _file(body: bytes, suffix: str) -> File:
    return File(body, KINDS[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
