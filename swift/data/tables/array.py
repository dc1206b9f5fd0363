"""json: one array whose elements are rows, or objects written one after another.

The scan finds where elements begin and end without parsing them: strings are told from structure by their quotes, depth
by a running sum over brackets. So a file of any size is indexed at the speed of numpy, and a bad value spoils its own
row only. Rows are numbered by element, since a whole file may be one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from swift.core.errors import DataError, RowError
from swift.data.tables import strict
from swift.data.tables.table import CHUNK, WHOLE, Block, Cursor, Handle, MappedFile

QUOTE, BACKSLASH = ord('"'), ord('\\')
STRUCTURE = np.zeros(256, bool)
STRUCTURE[[ord(each) for each in '{}[],']] = True
STEP = np.zeros(256, np.int64)
STEP[[ord('{'), ord('[')]] = 1
STEP[[ord('}'), ord(']')]] = -1


class _Elements:
    """Shared by both ways of writing rows as JSON; a subclass says which structure bounds an element."""

    def __init__(self, path: str | Path):
        self.file = MappedFile(path)
        self.path = self.file.path

    def read(self, handle: Handle) -> Any:
        raw = self.file.bytes[handle.start : handle.stop].strip()
        if not raw:
            raise RowError('bad JSON: an empty element; there is a comma too many')
        return strict.decode(raw)

    def fingerprint(self) -> str:
        return self.file.fingerprint()

    def _structure(self, at: int, depth: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions of brackets and commas outside strings, chunk by chunk, with the depths before and after each."""
        in_string = escaped = False
        size = len(self.file.bytes)
        for begin in range(at, size, CHUNK):
            chunk = self.file.array[begin : min(begin + CHUNK, size)]
            quotes, escaped = _quotes(chunk, escaped)
            positions = np.flatnonzero(STRUCTURE[chunk])
            positions = positions[(np.searchsorted(quotes, positions) + in_string) % 2 == 0]
            in_string ^= len(quotes) % 2 == 1
            step = STEP[chunk[positions]]
            after = depth + np.cumsum(step)
            if len(after):
                depth = int(after[-1])
            yield positions + begin, after - step, after
        if in_string or depth:
            raise self._broken('it ends inside a string or bracket')

    def _broken(self, problem: str) -> DataError:
        return DataError(
            f'{self.path} is not valid JSON: {problem}. Mend it, or use jsonl, where a bad row stays alone'
        )


class JsonArray(_Elements):
    """``[row, row, ...]``: elements are bounded by the outer brackets and the commas between them."""

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        at, number = cursor or Cursor(self.file.begin, 1)
        size = len(self.file.bytes)
        start = at if cursor else None
        for positions, before, after in self._structure(at, depth=1 if cursor else 0) if at < size else ():
            if start == size:
                break
            bounds = positions[((before == 1) & (after == 1)) | ((before == 0) ^ (after == 0))]
            if not len(bounds):
                continue
            ends = np.flatnonzero(after == 0)
            if len(ends) and (bounds[-1] != positions[ends[0]] or self.file.bytes[int(bounds[-1]) + 1 :].strip()):
                raise self._broken('there is more after the end of the array')
            starts = bounds + 1 if start is None else np.concatenate([[start], bounds + 1])
            stops = bounds[1:] if start is None else bounds
            start = size if len(ends) else int(starts[-1])
            starts = starts[:-1]
            if len(ends) and number + len(starts) == 2 and not self.file.bytes[starts[0] : stops[0]].strip():
                break  # an empty array
            after_block = Cursor(start, number + len(starts))
            yield Block(starts, stops, np.arange(number, after_block.line), after_block)
            number = after_block.line

    def _broken(self, problem: str) -> DataError:
        """With the exact place, where that is cheap to find."""
        if len(self.file.bytes) <= WHOLE:
            try:
                json.loads(self.file.bytes[self.file.begin :].decode('utf-8', 'replace'), strict=False)
            except json.JSONDecodeError as error:
                problem = f'{error.msg} at line {error.lineno} column {error.colno}'
            except RecursionError:
                problem = 'it is nested too deep'
        return super()._broken(problem)


class JsonObjects(_Elements):
    """``{...} {...}``: objects one after another, each over as many lines as it likes."""

    def scan(self, cursor: Cursor | None = None) -> Iterator[Block]:
        at, number = cursor or Cursor(self.file.begin, 1)
        end, start = at, None
        for positions, before, after in self._structure(at, depth=0):
            if len(after) and after.min() < 0:
                raise self._broken('a bracket is closed that was never opened')
            starts, stops = positions[(before == 0) & (after == 1)], positions[(before == 1) & (after == 0)] + 1
            if start is not None:
                starts = np.concatenate([[start], starts])
            start = int(starts[-1]) if len(starts) > len(stops) else None
            starts = starts[: len(stops)]
            if not len(stops):
                continue
            for a, b in zip([end, *stops[:-1].tolist()], starts.tolist(), strict=True):
                if self.file.bytes[a:b].strip():
                    raise self._broken('there is text between the objects')
            end = int(stops[-1])
            after_block = Cursor(end, number + len(stops))
            yield Block(starts, stops, np.arange(number, after_block.line), after_block)
            number = after_block.line
        if self.file.bytes[end:].strip():
            raise self._broken('there is text after the last object')


def _quotes(chunk: np.ndarray, escaped: bool) -> tuple[np.ndarray, bool]:
    """Positions of the quotes that open or close a string, and whether the byte after the chunk is escaped.

    A quote is escaped when an odd number of backslashes stands before it. ``escaped``: the chunk's first byte is.
    """
    quotes = np.flatnonzero(chunk == QUOTE)
    slashes = np.flatnonzero(chunk == BACKSLASH)
    if not len(slashes):
        return (quotes[quotes != 0] if escaped else quotes), False
    breaks = np.flatnonzero(np.diff(slashes) != 1) + 1
    first, last = slashes[np.concatenate([[0], breaks])], slashes[np.concatenate([breaks - 1, [len(slashes) - 1]])]
    length = last - first + 1
    skip = [0] if escaped and first[0] != 0 else []
    if escaped and first[0] == 0:
        length[0] -= 1  # that backslash is itself escaped
    behind = np.concatenate([np.asarray(skip, np.int64), last[length % 2 == 1] + 1])
    return quotes[~np.isin(quotes, behind)], bool(len(behind) and behind[-1] == len(chunk))
