"""What a measurement says, for people and for programs: tables in the terminal, report.md, report.png, report.json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from swift.bench import plot
from swift.core import files
from swift.core.table import table

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A table with what there is to say of it. The first of ``rows`` is the heading."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def write(
    found: Mapping[str, Any], folder: Path, sections: Sequence[Section], panels: Sequence[plot.Panel], out: TextIO
) -> None:
    """Print the tables, and write ``report.md``, ``report.json`` and, with matplotlib, ``report.png`` into ``folder``.

    Args:
        found: All that was measured, with ``load`` (averages before and after) and ``threads``.
    """
    before, after = (load[0] for load in found['load'])
    last = f'load average {before:.2f} before, {after:.2f} after; {found["threads"]} threads'
    for line in _terminal(sections):
        print(line, file=out)
    print(f'\n{last}', file=out)
    files.write(folder / 'report.md', '\n'.join([*_markdown(sections), last]) + '\n')
    drawn = ', report.png' if plot.draw(panels, folder / 'report.png') else ''
    files.write(folder / 'report.json', json.dumps(found, indent=1, ensure_ascii=False))
    print(f'\n{folder}{os.sep}report.json, report.md{drawn}', file=out)


def _terminal(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        yield f'\n{section.title}'
        yield from table(list(section.rows), cells=200)
        yield from (f'  {line}' for line in section.notes)


def _markdown(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        yield f'## {section.title}\n'
        heading, *lines = section.rows
        yield f'| {" | ".join(heading)} |'
        yield f'|{" --- |" * len(heading)}'
        yield from (f'| {" | ".join(line)} |' for line in lines)
        yield ''
        yield from (f'- {note.splitlines()[0]}' for note in section.notes)
        yield ''
