"""Strict JSON and UTF-8 of rows: a fault of the text is a fault of the row."""

from __future__ import annotations

from typing import Any

from swift.core import strict_json
from swift.core.errors import RowError

MAX_DEPTH = 64


def decode(raw: bytes) -> Any:
    """The value written in ``raw``. Raises RowError saying what is wrong and where."""
    try:
        return strict_json.decode(raw, depth=MAX_DEPTH)
    except strict_json.Fault as fault:
        raise RowError(str(fault)) from None


def utf8(raw: bytes) -> str:
    """``raw`` as text. Raises RowError naming the first byte that is no UTF-8."""
    try:
        return strict_json.utf8(raw)
    except strict_json.Fault as fault:
        raise RowError(f'{fault}. Save the file as UTF-8') from None
