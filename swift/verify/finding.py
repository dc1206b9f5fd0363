"""What was held against what: how far apart the two are, and how far they may be.

A check gives findings; ``tables`` shows them, a row for each name and a column for each kind of comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.table import table


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One comparison. ``difference`` None: it could not be made, and ``note`` says why.

    ``part`` is the table that it belongs to, ``name`` its row and ``what`` its column. ``note`` also says where the
    difference is the largest; ``place`` is the code that is to be looked at.
    """

    part: str
    name: str
    what: str
    difference: float | None
    allowed: float = 0.0
    note: str = ''
    place: str = ''

    @property
    def failed(self) -> bool:
        """Whether the difference is too large; what is not a number is."""
        return self.difference is not None and not self.difference <= self.allowed

    @property
    def text(self) -> str:
        """The cell of the table."""
        if self.difference is None:
            return 'skipped'
        return f'{"FAILED " if self.failed else ""}{self.difference:.0e}'

    def as_json(self) -> dict[str, Any]:
        """Everything, and what came of it."""
        state = 'skipped' if self.difference is None else 'failed' if self.failed else 'passed'
        return {name: getattr(self, name) for name in self.__slots__} | {'result': state}


def tables(findings: Sequence[Finding], about: dict[str, str], *, cells: int = 120) -> Iterator[str]:
    """Lines: a table for each part, then what was skipped and what failed.

    Args:
        about: a line on what has a name, shown first.
    """
    if about:
        yield from table([[name, text] for name, text in about.items()], cells=cells)
        yield ''
    for part in dict.fromkeys(each.part for each in findings):
        yield from _one([each for each in findings if each.part == part], cells)
        yield ''
    skipped = dict.fromkeys(each.note for each in findings if each.difference is None)
    yield from (f'skipped: {note}' for note in skipped)
    failed = [each for each in findings if each.failed]
    for each in failed:
        where = ', '.join(filter(None, (each.note, each.place)))
        yield f'FAILED  {each.name}, {each.what}: {each.difference:.1e}, allowed {each.allowed:.0e} ({where})'
    made = sum(each.difference is not None for each in findings)
    yield f'{made - len(failed)} of {made} comparisons passed' + (f', {len(failed)} FAILED' if failed else '')


def _one(findings: list[Finding], cells: int) -> Iterator[str]:
    """A row for each name; in the heading, how much each column allows."""
    columns = _columns(findings)
    allowed = {what: {f'{each.allowed:.0e}' for each in findings if each.what == what} for what in columns}
    cell = {(each.name, each.what): each.text for each in findings}
    rows = [[findings[0].part, *columns], ['', *(f'<= {" ".join(sorted(allowed[what]))}' for what in columns)]]
    for name in dict.fromkeys(each.name for each in findings):
        rows.append([name, *(cell.get((name, what), '-') for what in columns)])
    yield from table(rows, cells=cells)


def _columns(findings: Sequence[Finding]) -> list[str]:
    """All kinds of comparisons, each behind those that it comes after; some names have more of them than others."""
    columns: list[str] = []
    for name in dict.fromkeys(each.name for each in findings):
        place = 0
        for what in (each.what for each in findings if each.name == name):
            if what not in columns:
                columns.insert(place, what)
            place = columns.index(what) + 1
    return columns
