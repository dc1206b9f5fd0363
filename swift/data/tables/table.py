"""What a file of rows is to the rest of the room: rows that are found by position and read one at a time.

``scan`` walks a file once and yields blocks of positions, never rows; ``read`` turns one position into one row. Run to
its end, a scan is the index of the file (20 bytes a row); stopped and started again at a cursor, it is a stream.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from swift.core.errors import DataError

CHUNK = 8 << 20  # bytes that a scan looks at in one go
WHOLE = 64 << 20  # files up to this size are fingerprinted by all their bytes
SAMPLE = 1 << 20  # larger ones by this much of their head, middle and tail


class Cursor(NamedTuple):
    """Where a scan goes on: the byte (parquet: the row) that comes next, and its line."""

    offset: int
    line: int


class Handle(NamedTuple):
    """One row: where its bytes start and stop, and the number that people find it by."""

    start: int
    stop: int
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """Positions of consecutive rows, int64 [n] each, and the cursor after the last of them."""

    starts: np.ndarray
    stops: np.ndarray
    lines: np.ndarray
    after: Cursor

    def handle(self, i: int) -> Handle:
        return Handle(int(self.starts[i]), int(self.stops[i]), int(self.lines[i]))


class Table(Protocol):
    """One file of rows."""

    path: str

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        """Blocks of positions from ``cursor`` (None: the beginning) to the end.

        Raises:
            DataError: the file is broken in a way that hides where its rows begin.
        """
        ...

    def read(self, handle: Handle) -> Any:
        """The row at ``handle``. Raises RowError without the row's origin, which the caller knows."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the rows do."""
        ...


def index(table: Table) -> Block:
    """All positions of a table."""
    blocks = list(table.scan())
    if not blocks:
        none = np.zeros(0, np.int64)
        return Block(none, none, none.astype(np.int32), Cursor(0, 1))
    join = lambda name: np.concatenate([getattr(block, name) for block in blocks])
    return Block(join('starts'), join('stops'), join('lines').astype(np.int32), blocks[-1].after)


REFUSED = {
    b'\xff\xfe': 'is UTF-16 text; save it as UTF-8',
    b'\xfe\xff': 'is UTF-16 text; save it as UTF-8',
    b'\x1f\x8b': 'is compressed with gzip; unpack it first',
    b'PK\x03\x04': 'is a zip archive (or a spreadsheet); unpack it, or save it as csv',
    b'(\xb5/\xfd': 'is compressed with zstd; unpack it first',
    b'PAR1': 'is a parquet file; give it the name .parquet',
}


class MappedFile:
    """A file's bytes, mapped and never copied as a whole. Reads past a byte order mark; refuses UTF-16 and archives."""

    def __init__(self, path: str | Path):
        self.path = str(path)
        try:
            with open(path, 'rb') as file:
                size = file.seek(0, 2)
                self.bytes: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b''
        except OSError as error:
            raise DataError(f'{path} cannot be read: {error.strerror}') from error
        head = self.bytes[:4]
        for magic, problem in REFUSED.items():
            if head.startswith(magic):
                raise DataError(f'{path} {problem}')
        self.begin = 3 if head.startswith(b'\xef\xbb\xbf') else 0
        self.array = np.frombuffer(self.bytes, np.uint8)

    def fingerprint(self) -> str:
        return file_fingerprint(Path(self.path))


def file_fingerprint(path: Path) -> str:
    """What identifies a file's content.

    Up to 64 MiB it is the hash of all bytes: touching a file changes nothing. Beyond, hashing on every start would cost
    more than it tells: size, time of change, and the hash of 1 MiB each of head, middle and tail.
    """
    try:
        with path.open('rb') as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size <= WHOLE:
                return f'sha256:{hashlib.file_digest(file, "sha256").hexdigest()}'
            digest = hashlib.sha256()
            for offset in (0, size // 2, size - SAMPLE):
                file.seek(offset)
                digest.update(file.read(SAMPLE))
            return f'sampled:{size}:{path.stat().st_mtime_ns}:{digest.hexdigest()}'
    except OSError as error:
        raise DataError(f'{path} cannot be read: {error.strerror}') from error
