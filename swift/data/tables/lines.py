"""jsonl and plain text: a row is a line. Blank lines are no rows; line numbers count them, as editors do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swift.data.tables import strict
from swift.data.tables.table import CHUNK, Block, Cursor, Handle, MappedFile

NEWLINE = ord('\n')
SPACE = np.zeros(256, bool)
SPACE[list(b' \t\r\n\v\f')] = True


class Lines:
    """Positions of the lines of a text file; subclasses say what a line means."""

    def __init__(self, path: str | Path):
        self.file = MappedFile(path)
        self.path = self.file.path

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        at, line = cursor or Cursor(self.file.begin, 1)
        size = len(self.file.bytes)
        while at < size:
            starts = self._starts(at, size)
            after = Cursor(int(starts[-1]), line + len(starts) - 1)
            lines = np.arange(line, after.line)
            starts, stops = starts[:-1], starts[1:]
            keep = ~self._blank(starts, stops)
            yield Block(starts[keep], stops[keep], lines[keep], after)
            at, line = after

    def fingerprint(self) -> str:
        return self.file.fingerprint()

    def _starts(self, at: int, size: int) -> np.ndarray:
        """Starts of the lines in about one chunk from ``at``, and where the line after them starts."""
        length = CHUNK
        while True:
            end = min(at + length, size)
            ends = np.flatnonzero(self.file.array[at:end] == NEWLINE) + (at + 1)
            if end == size and (not len(ends) or ends[-1] != size):
                ends = np.append(ends, size)  # the last line may lack its newline
            if len(ends):
                return np.concatenate([[at], ends])
            length *= 2

    def _blank(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Which lines hold white space only. Only lines that begin with white space need a look."""
        blank = SPACE[self.file.array[starts]]
        for i in np.flatnonzero(blank):
            blank[i] = not self.file.bytes[starts[i] : stops[i]].strip()
        return blank


class JsonLines(Lines):
    """One JSON object a line."""

    def read(self, handle: Handle) -> Any:
        return strict.decode(self.file.bytes[handle.start : handle.stop])


class TextLines(Lines):
    """One document a line: ``{'text': line}``."""

    def read(self, handle: Handle) -> Any:
        return {'text': strict.utf8(self.file.bytes[handle.start : handle.stop]).rstrip('\r\n')}
