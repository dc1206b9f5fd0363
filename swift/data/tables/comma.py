"""csv and tsv: the first record names the columns, every other is a row of as many fields.

Quoting follows RFC 4180 without mercy: a quote that is never closed stops the run, since no one can tell which rows it
swallowed. An empty field is an absent value.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swift.core.errors import DataError, RowError
from swift.data.tables import strict
from swift.data.tables.table import Block, Cursor, Handle, MappedFile

BLOCK = 65536  # records
csv.field_size_limit(sys.maxsize)  # the module's limit of 128 KiB is less than a long document


class Csv:
    """Rows of a ``.csv`` file."""

    delimiter = ','

    def __init__(self, path: str | Path):
        self.file = MappedFile(path)
        self.path = self.file.path
        self.columns: list[str] = []
        self.first = Cursor(self.file.begin, 1)
        for start, stop, _, after in self._records(self.first):
            self.columns, self.first = self._header(start, stop), after
            break

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        rows: list[tuple[int, int, int]] = []
        for start, stop, line, behind in self._records(cursor or self.first):
            rows.append((start, stop, line))
            if len(rows) == BLOCK:
                yield _block(rows, behind)
                rows = []
        if rows:
            yield _block(rows, behind)

    def read(self, handle: Handle) -> Any:
        text = strict.utf8(self.file.bytes[handle.start : handle.stop])
        try:
            fields = self._fields(text)
        except csv.Error as error:
            lines = text.count('\n') or 1
            span = f' (the record is {lines} lines long)' if lines > 1 else ''
            raise RowError(f'bad csv: {error}{span}. Double the quotes inside a quoted field') from None
        if len(fields) != len(self.columns):
            names = ', '.join(self.columns)
            raise RowError(f'ragged row: {len(fields)} fields where the header names {len(self.columns)} ({names})')
        return {name: value if value else None for name, value in zip(self.columns, fields, strict=True)}

    def fingerprint(self) -> str:
        return self.file.fingerprint()

    def _fields(self, text: str) -> list[str]:
        """The fields of one record. Lines end at line feeds only, as in the scan (str.splitlines knows ten ends)."""
        return next(csv.reader((f'{line}\n' for line in text.split('\n')), delimiter=self.delimiter, strict=True))

    def _header(self, start: int, stop: int) -> list[str]:
        try:
            names = self._fields(strict.utf8(self.file.bytes[start:stop]))
        except (RowError, csv.Error) as error:
            raise DataError(f'{self.path}:1: the header cannot be read: {error}') from None
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f'{self.path}:1: the header names {", ".join(map(repr, twice))} twice; give them other names'
            )
        return names

    def _records(self, cursor: Cursor) -> Iterator[tuple[int, int, int, Cursor]]:
        """(start, stop, line, cursor after it) of each record that is not blank."""
        lines = _LineFeed(self.file, cursor)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        while True:
            start, line = lines.offset, lines.line
            try:
                fields = next(reader, None)
            except csv.Error as error:
                if str(error) == 'unexpected end of data':
                    raise DataError(
                        f'{self.path}:{line}: a quote is opened in this record and never closed, so no row after it '
                        'can be told from text. Close it, or double it if it is part of the text'
                    ) from None
                fields = ['']  # read() raises the same error, and the row is accounted for there
            if fields is None:
                return
            if fields:
                yield start, lines.offset, line, Cursor(lines.offset, lines.line)


class Tsv(Csv):
    """Rows of a ``.tsv`` file."""

    delimiter = '\t'


class _LineFeed:
    """Lines of a mapped file for csv.reader, counting what it takes."""

    def __init__(self, file: MappedFile, cursor: Cursor):
        self.file, self.offset, self.line = file, cursor.offset, cursor.line

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        data = self.file.bytes
        if self.offset >= len(data):
            raise StopIteration
        stop = data.find(b'\n', self.offset) + 1 or len(data)
        text = data[self.offset : stop].decode('utf-8', 'surrogateescape')
        self.offset, self.line = stop, self.line + 1
        return text


def _block(rows: list[tuple[int, int, int]], after: Cursor) -> Block:
    starts, stops, lines = np.asarray(rows, np.int64).T
    return Block(starts, stops, lines, after)
