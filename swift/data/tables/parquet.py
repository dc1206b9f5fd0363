"""parquet: rows by number, decoded a slice of a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from swift.core.errors import DataError, RowError
from swift.data.tables.table import Block, Cursor, Handle, file_fingerprint

GROUPS = 2  # decoded row groups kept: a shuffled stream reads around a border
SLICE = 256  # rows made into Python objects together
SLICES = 16


class Parquet:
    """Rows of a ``.parquet`` file."""

    def __init__(self, path: str | Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = str(path)
        try:
            self.file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f'{path} cannot be read as parquet: {error}') from error
        metadata = self.file.metadata
        self.starts = [0, *accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))]
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._slices: OrderedDict[int, list[dict]] = OrderedDict()

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        begin, end = (cursor.offset if cursor else 0), self.starts[-1]
        if begin < end:
            rows = np.arange(begin, end)
            yield Block(rows, rows + 1, rows + 1, Cursor(end, end + 1))

    def read(self, handle: Handle) -> Any:
        part, within = divmod(handle.start, SLICE)
        if part not in self._slices:
            _keep(self._slices, part, self._decode(part * SLICE, min((part + 1) * SLICE, self.starts[-1])), SLICES)
        row = self._slices[part][within]
        if isinstance(row, RowError):
            raise row
        return row

    def fingerprint(self) -> str:
        return file_fingerprint(Path(self.path))

    def _decode(self, begin: int, end: int) -> list[Any]:
        """Rows ``begin`` to ``end``, which may lie in several row groups; a RowError in place of a bad one."""
        rows: list[Any] = []
        while begin < end:
            group = bisect_right(self.starts, begin) - 1
            count = min(end, self.starts[group + 1]) - begin
            piece = self._group(group).slice(begin - self.starts[group], count)
            try:
                rows += piece.to_pylist()
            except UnicodeDecodeError:
                rows += [_one(piece.slice(i, 1)) for i in range(count)]
            begin += count
        return rows

    def _group(self, group: int) -> Any:
        import pyarrow as pa

        if group not in self._groups:
            try:
                _keep(self._groups, group, self.file.read_row_group(group), GROUPS)
            except (pa.ArrowInvalid, OSError) as error:
                rows = f'{self.starts[group] + 1} to {self.starts[group + 1]}'
                raise DataError(f'{self.path}: rows {rows} cannot be decoded: {error}') from error
        self._groups.move_to_end(group)
        return self._groups[group]


def _one(piece: Any) -> Any:
    try:
        return piece.to_pylist()[0]
    except UnicodeDecodeError as error:
        return RowError(f'invalid UTF-8: byte 0x{error.object[error.start]:02x} in a text column')


def _keep(cache: OrderedDict, key: int, value: Any, most: int) -> None:
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
