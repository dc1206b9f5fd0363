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
    # By name: asyncio turns Nagle's waiting (40 ms an answer) off only where it can tell that this is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


def check_tls(place: Place) -> None:
    """Whether its files of TLS can be served with. Raises ConfigError."""
    import ssl

    if place.certfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(place.certfile, place.keyfile, password=lambda: '')
    except OSError as error:
        other = isinstance(error, ssl.SSLError) and error.reason == 'KEY_VALUES_MISMATCH'
        why = 'the key belongs to another certificate' if other else 'expected PEM files, the key without a password'
        raise ConfigError(f'--ssl_certfile {place.certfile} --ssl_keyfile {place.keyfile}: {why}') from error
