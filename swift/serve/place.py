"""Where the server listens. Imports nothing of the server, so that the address is taken before anything is loaded."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from swift.core.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where the server listens, and how it ends."""

    host: str = '127.0.0.1'
    port: int = 8000
    certfile: str | None = None
    keyfile: str | None = None
    drain: float = 30.0
    log_interval: float = 20.0


def bind(place: Place) -> socket.socket:
    """Own the address before anything is loaded. Raises ConfigError: it is in use, or not ours."""
    family = socket.AF_INET6 if ':' in place.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.host, place.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f'--host {place.host} --port {place.port}: {error.strerror or error}; choose another port'
        ) from error
    return listener
