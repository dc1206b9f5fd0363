"""Plain tables for terminals: aligned columns, Chinese characters counted as two cells, no library needed.

Used before anything is installed, so it imports the standard library only.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence


def width(text: str) -> int:
    """Cells that ``text`` takes in a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in 'WF' else not unicodedata.combining(char) for char in text)


def pad(text: str, cells: int) -> str:
    """``text`` filled with spaces to ``cells``."""
    return text + ' ' * (cells - width(text))


def fold(text: str, cells: int) -> list[str]:
    """``text`` in lines of at most ``cells``; Chinese is folded anywhere, other scripts between words."""
    if width(text) <= cells:
        return [text]
    if width(text) == len(text):
        return textwrap.wrap(text, cells) or ['']
    lines = ['']
    for piece in re.findall(r'[!-~]{1,20}|.', text):
        if width(lines[-1] + piece) > cells:
            lines.append('')
        lines[-1] += piece
    return [line.strip() for line in lines]


def table(rows: Sequence[Sequence[str]], *, cells: int = 100, indent: str = '  ') -> Iterator[str]:
    """Lines of a table with aligned columns; the last column is folded so that no line is longer than ``cells``."""
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    left = sum(widths) + 2 * len(widths) + width(indent)
    for *first, last in rows:
        head = indent + ''.join(pad(text, size + 2) for text, size in zip(first, widths, strict=True))
        for line in fold(last, max(cells - left, 20)):
            yield (head + line).rstrip()
            head = ' ' * left


def side_by_side(left: str, right: str, *, cells: int = 100, indent: str = '  ') -> Iterator[str]:
    """Two texts in two columns with a bar between them."""
    half = (cells - len(indent) - 3) // 2
    columns = [[line for part in text.splitlines() or [''] for line in fold(part, half)] for text in (left, right)]
    for i in range(max(map(len, columns))):
        a, b = (column[i] if i < len(column) else '' for column in columns)
        yield f'{indent}{pad(a, half)} │ {b}'.rstrip()
