"""Files of rows, one module a format. ``open_table`` picks by the name's ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swift.core.errors import DataError, RowError
from swift.data.tables import strict
from swift.data.tables.array import JsonArray, JsonObjects
from swift.data.tables.comma import Csv, Tsv
from swift.data.tables.lines import JsonLines, TextLines
from swift.data.tables.memory import Memory
from swift.data.tables.parquet import Parquet
from swift.data.tables.table import Block, Cursor, Handle, Table, index

__all__ = ['TABLES', 'Block', 'Cursor', 'Handle', 'Memory', 'Table', 'index', 'open_table']


def json_table(path: Path) -> Table:
    """``.json`` is used for three things; the first bytes tell which."""
    with path.open('rb') as file:
        head = file.read(4096).removeprefix(b'\xef\xbb\xbf').lstrip()
        if head[:1] == b'[':
            return JsonArray(path)
        file.seek(0)
        first = next((line for line in file if line.removeprefix(b'\xef\xbb\xbf').strip()), b'')
    try:
        strict.decode(first.removeprefix(b'\xef\xbb\xbf'))
        return JsonLines(path)
    except RowError:
        return JsonObjects(path) if head[:1] == b'{' else JsonLines(path)


TABLES: dict[str, Callable[[Path], Table]] = {
    '.jsonl': JsonLines,
    '.json': json_table,
    '.csv': Csv,
    '.tsv': Tsv,
    '.parquet': Parquet,
    '.txt': TextLines,
}


def open_table(path: Path) -> Table:
    """The table for a file, chosen by its ending. Raises DataError for endings that are no table."""
    if path.suffix.lower() not in TABLES:
        known = ', '.join(TABLES)
        raise DataError(f'{path}: files of rows end in {known}; convert it, or give it the ending that it deserves')
    return TABLES[path.suffix.lower()](path)
