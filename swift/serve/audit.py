"""Who asked what, and when, in a file that shows any change: JSON lines, each with the hash of the one before it.

    {"seq": 7, "time": ..., "key": "alice", "route": ..., ..., "previous": HASH OF 6, "hash": HASH OF THIS}

A prompt or an answer is never in it. ``verify`` reads a whole file and names the first line that is not what was
written. Lines cut off at the end show only to who knows the last hash: keep that elsewhere now and then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core import files
from swift.core.errors import CorruptError, DiskError, LockedError
from swift.core.log import get_logger

GENESIS = '0' * 64
TORN = 'torn'  # an entry that says what a crash left of the line before it
AT_ONCE = 256


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many entries there are, and the hash of the last."""

    count: int = 0
    hash: str = GENESIS

    def next(self, entry: dict[str, Any]) -> tuple[Head, str]:
        """The chain with ``entry`` at its end, and the line that says so."""
        whole = {'seq': self.count, **entry, 'previous': self.hash}
        digest = _digest(whole)
        return Head(self.count + 1, digest), json.dumps({**whole, 'hash': digest}, ensure_ascii=False)


def _digest(entry: dict[str, Any]) -> str:
    text = json.dumps(entry, ensure_ascii=False, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def verify(path: Path) -> Head:
    """Check every line of a file.

    Returns:
        The end of its chain, to be compared with one that was kept elsewhere.

    Raises:
        CorruptError: naming the first line that is not what was written.
        DiskError: the file cannot be read.
    """
    try:
        with path.open('rb') as file:
            return _follow(path, (line.rstrip(b'\n') for line in file))
    except OSError as error:
        raise DiskError(f'{path}: {error.strerror}') from error


def _follow(path: Path, lines: Iterable[bytes]) -> Head:
    """The end of the chain of ``lines``. Raises CorruptError."""
    head, torn = Head(), None
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if torn is not None and (entry is None or entry.get('event') != TORN or entry.get('digest') != torn):
            raise CorruptError(f'{path}:{number - 1}: is no entry, and the next line does not say that a crash tore it')
        torn = None if entry is not None else hashlib.sha256(line).hexdigest()
        if entry is None:
            continue
        said = entry.pop('hash', None)
        if (entry.get('seq'), entry.get('previous')) != (head.count, head.hash):
            raise CorruptError(
                f'{path}:{number}: does not follow the line before it: a line was added, moved or removed'
            )
        if said != _digest(entry):
            raise CorruptError(f'{path}:{number}: was changed after it was written')
        head = Head(head.count + 1, said)
    if torn is not None:
        raise CorruptError(f'{path}: the last line is no entry; a server that goes on with the file says how it came')
    return head


def hashes(path: Path) -> set[str]:
    """Hashes of the entries of a file that was verified."""
    return {entry['hash'] for line in path.read_bytes().splitlines() if (entry := _entry(line)) and 'hash' in entry}


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


class Audit:
    """Writes entries in a thread of its own, in order.

    Raises:
        CorruptError: the file is there and is not what was written.
        LockedError: another server writes to it.
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path, *, failed: Callable[[DiskError], None] = lambda error: None):
        self._path, self._failed = path, failed
        with files.explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LockedError(f'{path}: another server writes to this audit log') from None
        self._head = self._continue()
        self._entries: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name='swift-audit', daemon=True)
        self._thread.start()

    def add(self, entry: dict[str, Any]) -> None:
        """Queue an entry; never waits."""
        self._entries.put(entry)

    def close(self) -> None:
        """Write what is queued, and end."""
        self._entries.put(None)
        self._thread.join(10)
        os.close(self._lock)

    def _continue(self) -> Head:
        """Where the chain goes on. What a crash left of a line stays, and the next entry says so."""
        data = self._path.read_bytes()
        whole, _, rest = data.rpartition(b'\n')
        if not rest:
            return verify(self._path)
        files.append(self._path, '')
        if _entry(rest) is None:
            _, line = _follow(self._path, whole.split(b'\n') if whole else ()).next(
                {'event': TORN, 'digest': hashlib.sha256(rest).hexdigest()}
            )
            files.append(self._path, line)
        return verify(self._path)

    def _write(self) -> None:
        open_ = True
        while open_:
            taken = [self._entries.get()]
            while len(taken) < AT_ONCE and not self._entries.empty():
                taken.append(self._entries.get())
            open_ = None not in taken
            lines = []
            for entry in taken:
                if entry is not None:
                    self._head, line = self._head.next(entry)
                    lines.append(line)
            if not lines:
                continue
            try:
                files.append(self._path, '\n'.join(lines))
            except DiskError as error:
                get_logger().error('the audit log cannot be written, so nothing more is answered: %s', error)
                self._failed(error)
                return
