"""Libraries that answer with a server of their own, which runs in its own environment as a process below ours.

    Backend (a row a library)  --command-->  Launched  --Connection-->  RemoteEngine

The library's packages never meet ours: it is started by the Python that has it, listens on a Unix socket in a private
folder where it can and on loopback where it cannot, and ends with us however we end.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.core.log import get_logger
from swift.engines import installed
from swift.engines.client import RemoteEngine
from swift.engines.connection import Connection
from swift.engines.dialects import Dialect
from swift.engines.installed import Installed, Package
from swift.engines.launch import Launched, environment

TIMEOUT = 1800.0  # seconds that a server may take to start where nothing is said: large models are read slowly


@dataclass(frozen=True, slots=True)
class Job:
    """What a server is to serve.

    ``settings``: the library's own arguments, by their names; they win over what follows from the other fields.
    ``adapters``: name -> folder of those that answer from the start.
    """

    model: Path
    name: str
    dtype: str
    max_model_len: int | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    trust_remote_code: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server may put things and how it is spoken to: a private folder, a port that is free, a random key."""

    folder: Path
    port: int
    key: str

    @property
    def socket(self) -> Path:
        """For servers that can listen on one."""
        return self.folder / 'socket'


@dataclass(frozen=True, slots=True)
class Start:
    """How a server is started: ``arguments`` of its Python, more variables, and whether it listens on the socket."""

    arguments: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    on_socket: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """A library.

    ``length``: its argument for the longest prompt with its answer. ``renamed``: flags whose rest is not the name of
    the argument. ``early``: ``start`` names the adapters to the server, so that they need not be loaded later.
    """

    package: Package
    dialect: Dialect
    start: Callable[[Job, Installed, Place], Start]
    length: str = 'max_model_len'
    health: str = '/health'
    renamed: Mapping[str, str] = field(default_factory=dict)
    early: bool = False
    update: Callable[[Connection, Any], None] | None = None


class ServerEngine(RemoteEngine):
    """A RemoteEngine whose server is ours: it is closed with the engine.

    Raises:
        ConfigError: the library is not installed, or has no such argument.
        ModelError: it cannot load an adapter.
        HangError, UnavailableError: its server did not start; with the end of what it wrote.
    """

    def __init__(
        self,
        backend: Backend,
        job: Job,
        *,
        decode: Callable[[Sequence[int]], str],
        python: str | None = None,
        timeout: float = TIMEOUT,
    ):
        package = backend.package
        found = installed.find(package, python)
        installed.check(package, found, job.settings)
        get_logger().info(f'{package.name} {found.version} of {found.python} answers')
        with contextlib.ExitStack() as undo:
            folder = Path(tempfile.mkdtemp(prefix='swift-'))  # of this user only; a socket's path must be short
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            place = Place(folder, free_port(), secrets.token_urlsafe(32))
            start = backend.start(job, found, place)
            server = Launched(package.name, [found.python, *start.arguments], environment(**start.environ), folder)
            undo.callback(server.close)
            connection = Connection(
                'http://localhost' if start.on_socket else f'http://127.0.0.1:{place.port}',
                key=place.key,
                socket=place.socket if start.on_socket else None,
                failure=server.failure,
            )
            undo.callback(connection.close)
            server.wait(lambda: connection.answers(backend.health), seconds=timeout)
            update = backend.update
            super().__init__(
                connection,
                backend.dialect,
                model=job.name,
                decode=decode,
                adapters=tuple(job.adapters) if backend.early else (),
                overwrite=None if update is None else (lambda weights: update(connection, weights)),
            )
            for name, path in () if backend.early else job.adapters.items():
                self.load_adapter(name, path)
            self.server = server
            self._close = weakref.finalize(self, undo.pop_all().close)

    def close(self) -> None:
        """Abort what is open and end the server."""
        self._close()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def words(settings: Mapping[str, Any]) -> Iterator[str]:
    """Arguments as a command line says them: ``tensor_parallel_size`` 2 is ``--tensor-parallel-size 2``.

    None is left out, True is the bare word, False its ``--no-`` twin, a list several values, a mapping JSON.
    """
    for name, value in settings.items():
        word = name.replace('_', '-')
        if value is None:
            continue
        if isinstance(value, bool):
            yield f'--{word}' if value else f'--no-{word}'
        elif isinstance(value, list | tuple):
            yield from (f'--{word}', *map(str, value))
        else:
            yield from (f'--{word}', json.dumps(value) if isinstance(value, dict) else str(value))
