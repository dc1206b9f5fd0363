"""A server on a free port in a thread of its own: what the tests of this folder share."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from swift.engines.api import ChatEngine
from swift.engines.fake import ByteTemplate, FakeEngine
from swift.serve.app import build
from swift.serve.auth import Keys
from swift.serve.bounds import Bounds
from swift.serve.gate import Gate
from swift.serve.house import House
from swift.serve.ledger import Ledger
from swift.serve.place import Place, bind
from swift.serve.routes import ROUTES
from swift.serve.server import Server

DEADLINE = 60.0  # seconds that a test waits for anything: the machine may be busy
CANARY = 'Who are you? 你是谁？'


@dataclass
class Running:
    """A server that answers."""

    house: House
    server: Server
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}/v1'

    @property
    def engine(self) -> Any:
        return self.house.chat.engine

    def post(self, path: str, body: Any, *, key: str | None = None, headers: dict[str, str] | None = None):
        """(status, JSON of the answer, headers) of one request; ``body`` may be bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask('POST', path, data, key=key, headers={'content-type': 'application/json', **(headers or {})})

    def get(self, path: str, *, key: str | None = None, headers: dict[str, str] | None = None):
        return self.ask('GET', path, None, key=key, headers=headers or {})

    def ask(self, method: str, path: str, data: bytes | None, *, key: str | None, headers: dict[str, str]):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            authorization = {} if key is None else {'authorization': f'Bearer {key}'}
            connection.request(method, path, data, {**authorization, **headers})
            response = connection.getresponse()
            text = response.read()
            kind = response.headers.get('content-type', '')
            return response.status, json.loads(text) if 'json' in kind else text.decode(), response.headers

    def chat(self, text: str, *, key: str | None = None, **fields: Any):
        body = {'model': self.house.name, 'messages': [{'role': 'user', 'content': text}], **fields}
        return self.post('/v1/chat/completions', body, key=key)

    def raw(self, data: bytes = b'') -> socket.socket:
        """A connection to which ``data`` was sent."""
        connection = socket.create_connection(('127.0.0.1', self.port), timeout=DEADLINE)
        connection.sendall(data)
        return connection

    def request(self, body: bytes, path: str = '/v1/chat/completions', headers: str = '') -> bytes:
        """The bytes of a POST."""
        head = f'POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}'
        return f'{head}content-length: {len(body)}\r\n\r\n'.encode() + body

    def is_well(self) -> None:
        """The canary: the same question is answered to the byte, nothing is open and nothing is leaked."""
        until(lambda: not self.house.open and not self.house.asked, 'requests stay open')
        until(lambda: self.engine.stats()['open'] == 0, 'the engine still answers')
        assert (self.house.gate.running, self.house.gate.waiting) == (0, 0)
        status, answer, _ = self.chat(CANARY)
        assert status == 200, answer
        assert answer['choices'][0]['message']['content'] == CANARY
        until(self._balanced, 'what was accepted did not end')

    def _balanced(self) -> bool:
        stats = self.engine.stats()
        return stats['accepted'] == stats['finished'] + stats['aborted'] + stats['failed']


def until(condition, what: str = 'it did not happen', seconds: float = DEADLINE) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition(), what


def house(
    engine: Any = None, *, keys=(), ledger: Ledger | None = None, bounds: Bounds | None = None, **more: Any
) -> House:
    """A house around a fake engine."""
    engine = engine or FakeEngine()
    bounds = bounds or Bounds()
    chat = ChatEngine(
        engine,
        ByteTemplate(),
        model_name='fake',
        max_model_len=engine.max_model_len if isinstance(engine, FakeEngine) else 4096,
    )
    return House(
        name='fake',
        chat=chat,
        encode=lambda text: list(text.encode()),
        keys=Keys(keys),
        ledger=ledger or Ledger(),
        gate=more.pop('gate', None) or Gate(64, bounds.queue),
        bounds=bounds,
        **more,
    )


@contextlib.contextmanager
def running(
    made: House | None = None, *, drain: float = 1.0, routes=ROUTES, around=lambda app: app, **more: Any
) -> Iterator[Running]:
    """Serve a house until the block ends; ``around`` may put something before its application."""
    made = made or house(**more)
    listener = bind(Place(port=0))
    place = Place(port=listener.getsockname()[1], drain=drain, log_interval=0)
    server = Server(around(build(made, routes)), made, place)
    thread = threading.Thread(target=lambda: asyncio.run(server.run_on(listener)), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield Running(made, server, place.port, thread)
    finally:
        if thread.is_alive():
            server.handle_exit(signal.SIGTERM, None)
            thread.join(DEADLINE)
        made.chat.close()
        made.close()
        assert not thread.is_alive()


def small(**changes: Any) -> Bounds:
    """Bounds for a test that reaches them."""
    return replace(Bounds(), **changes)
