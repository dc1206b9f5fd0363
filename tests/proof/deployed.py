"""``swift deploy`` in a process of its own, spoken to as strangers do: over sockets, nothing of ours between."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


@dataclass(eq=False)
class Deployed:
    """A server that runs: where it is, its process, and what it has written so far."""

    port: int
    process: subprocess.Popen[str]
    scheme: str = 'http'
    key: str | None = None
    said: list[str] = field(default_factory=list)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=600, trust_env=False, verify=False))

    @property
    def address(self) -> str:
        """Where its paths begin."""
        return f'{self.scheme}://127.0.0.1:{self.port}'

    @property
    def url(self) -> str:
        """What clients of OpenAI call its base."""
        return f'{self.address}/v1'

    def get(self, path: str, *, key: str | None = None, **how) -> httpx.Response:
        """A plain get."""
        return self.client.get(self.address + path, headers=self.headers(key), **how)

    def post(self, path: str, body: dict, *, key: str | None = None, **how) -> httpx.Response:
        """A plain post."""
        return self.client.post(self.address + path, json=body, headers=self.headers(key), **how)

    def headers(self, key: str | None = None) -> dict[str, str]:
        """Those of a key: this one, or the server's own."""
        key = key or self.key
        return {'authorization': f'Bearer {key}'} if key else {}

    def numbers(self) -> dict[str, float]:
        """What /metrics says: name with labels -> value."""
        lines = (line.rpartition(' ') for line in self.get('/metrics').text.splitlines() if line[:1] != '#')
        return {name: float(value) for name, _, value in lines}

    def end(self, seconds: float = 60) -> tuple[int, float]:
        """Ask it to end. Returns (exit code, seconds that it took)."""
        began = time.monotonic()
        self.process.terminate()
        return self.process.wait(seconds), time.monotonic() - began


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def deployed(*flags: object, key: str | None = None, **environ: str) -> Iterator[Deployed]:
    """A server that answers; killed, if it has not ended, when the block does."""
    port = free_port()
    command = [sys.executable, '-m', 'swift.cli', 'deploy', '--port', str(port), *map(str, flags)]
    given = {**os.environ, **environ, **({'SWIFT_API_KEY': key} if key else {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=given, text=True
    )
    server = Deployed(port, process, 'https' if '--ssl_certfile' in flags else 'http', key)
    reader = threading.Thread(target=lambda: server.said.extend(process.stdout), daemon=True)
    reader.start()
    try:
        until(lambda: process.poll() is not None or any('://127.0.0.1' in line for line in list(server.said)), 900)
        assert process.poll() is None, ''.join(server.said)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def children(pid: int) -> list[int]:
    """Processes below one."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(')')[2].split()
            if int(fields[1]) == pid and fields[0] != 'Z':
                found.append(int(stat.parent.name))
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    with contextlib.suppress(OSError):
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    return True


def until(condition: Callable[[], object], seconds: float = 60, what: str = 'it did not happen') -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    assert held, what
