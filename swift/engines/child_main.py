"""The engine's own process: ``python -m swift.engines.child_main FD``. See ``child.py`` for the other end.

It reads what to open from the socket it was given, so that nothing is to be seen in the list of processes. When the
other end is gone, however it went, this process ends, and with it all that it started.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swift.core.types import Engine, Piece
from swift.engines import wire

BEAT = 0.5  # seconds between signs of life
AT_ONCE = 512  # pieces in a frame

CALLS: dict[str, Callable[..., Any]] = {
    'load_adapter': lambda engine, name, path: engine.load_adapter(name, Path(path)),
    'unload_adapter': lambda engine, name: engine.unload_adapter(name),
    'read': lambda engine, rows: engine.read(rows),
}


def main(fd: int) -> None:
    """Open the engine and serve it until the other end closes or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    os.dup2(2, 1)  # what libraries print is no answer of ours
    connection = socket.socket(fileno=fd)
    Served(connection).run()


class Served:
    """An engine and its socket. The main thread reads, one thread writes, one opens the engine."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._out: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._beaten = 0.0

    def run(self) -> None:
        """Read messages until there is nobody who sends any."""
        threading.Thread(target=self._write, name='swift-engine-writer', daemon=True).start()
        frames = wire.Frames()
        try:
            while data := self._connection.recv(1 << 16):
                for name, *rest in frames.push(data):
                    if name == 'close':
                        return self._end()
                    HANDLERS[name](self, *rest)
        except OSError:  # who sent them is gone
            return self._end()
        except ValueError as error:
            print(f'the engine ends: a message that cannot be read ({error})', file=sys.stderr, flush=True)
        self._end()

    def _end(self) -> None:
        """End at once: nobody is left who could wait for an answer."""
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    # ---------------------------------------------------------------------------------------------------- messages
    def _open(self, recipe: dict[str, Any]) -> None:
        threading.Thread(target=self._build, args=(recipe,), name='swift-engine-opener', daemon=True).start()

    def _build(self, recipe: dict[str, Any]) -> None:
        try:
            module, _, attribute = recipe['target'].partition(':')
            engine = getattr(importlib.import_module(module), attribute)(**recipe['arguments'])
            for name, path in recipe['adapters'].items():
                engine.load_adapter(name, Path(path))
        except BaseException as error:
            self._out.put(('failed', wire.error_out(error)))
            return
        self._engine = engine
        self._out.put(('ready', list(engine.adapters)))

    def _begin(self, value: dict[str, Any]) -> None:
        request = wire.request_in(value)
        deliver: Callable[[Piece | BaseException | None], None]
        deliver = lambda item: self._out.put(('piece', (request.id, item)))
        try:
            self._engine.begin(request, deliver)  # type: ignore[union-attr]
        except Exception as error:
            deliver(error)

    def _abort(self, id: str) -> None:
        if self._engine is not None:
            self._engine.abort(id)

    def _call(self, number: int, name: str, arguments: list[Any]) -> None:
        """Answer a call in a thread of its own: an adapter may take long to load."""

        def answer() -> None:
            try:
                value, error = CALLS[name](self._engine, *arguments), None
            except Exception as caught:
                value, error = None, wire.error_out(caught)
            self._out.put(('answer', (number, value, error)))

        threading.Thread(target=answer, name='swift-engine-call', daemon=True).start()

    # ------------------------------------------------------------------------------------------------------ writer
    def _write(self) -> None:
        """Send what there is, pieces together, and a sign of life where there is nothing."""
        try:
            while True:
                self._connection.sendall(b''.join(map(wire.frame, self._messages())))
        except OSError:  # who reads them is gone
            pass
        except Exception:  # an engine that nobody hears would be waited for
            traceback.print_exc()
        self._end()

    def _messages(self) -> list[list[Any]]:
        taken: list[tuple[str, Any]] = []
        try:
            taken.append(self._out.get(timeout=BEAT))
            while len(taken) < AT_ONCE:
                taken.append(self._out.get_nowait())
        except queue.Empty:
            pass
        pieces = [(id, wire.item_out(item)) for kind, (id, item) in _of(taken, 'piece')]
        messages: list[list[Any]] = [['pieces', pieces]] if pieces else []
        for kind, value in taken:
            if kind != 'piece':
                messages.append([kind, *value] if kind == 'answer' else [kind, value])
        if time.monotonic() - self._beaten >= BEAT / 2:
            self._beaten = time.monotonic()
            messages.append(['stats', self._stats()])
        return messages

    def _stats(self) -> dict[str, float]:
        if self._engine is None:
            return {}
        return {**self._engine.stats(), 'ready': float(self._engine.ready)}


def _of(taken: list[tuple[str, Any]], kind: str) -> list[tuple[str, Any]]:
    return [each for each in taken if each[0] == kind]


HANDLERS: dict[str, Callable[..., None]] = {
    'open': Served._open,
    'begin': Served._begin,
    'abort': Served._abort,
    'call': Served._call,
}


if __name__ == '__main__':
    main(int(sys.argv[1]))
