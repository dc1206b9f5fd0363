"""Rows that are Python objects already: a list of dicts, or anything with a length and items, such as a
``datasets.Dataset``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from swift.data.tables.table import Block, Cursor, Handle


class Memory:
    """Rows of a sequence. ``name`` is what messages call it."""

    def __init__(self, rows: Sequence[Any], name: str = '<memory>'):
        self.rows, self.path = rows, name

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        begin, end = (cursor.offset if cursor else 0), len(self.rows)
        if begin < end:
            numbers = np.arange(begin, end)
            yield Block(numbers, numbers + 1, numbers + 1, Cursor(end, end + 1))

    def read(self, handle: Handle) -> Any:
        return self.rows[handle.start]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for i in range(len(self.rows)):
            digest.update(repr(self.rows[i]).encode('utf-8', 'backslashreplace') + b'\n')
        return f'rows:{digest.hexdigest()}'
