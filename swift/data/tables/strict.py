"""Strict JSON: what a lenient parser lets through in silence is a fault of the row here.

In: the bytes of one value. Out: the value. NaN and Infinity, numbers that overflow, integers beyond 64 bits, a key
given twice, invalid UTF-8, half of a surrogate pair and nesting beyond ``MAX_DEPTH`` raise ``RowError``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from swift.core.errors import RowError

MAX_DEPTH = 64
SURROGATE = re.compile(rb'\\u[dD][89a-fA-F]')


def decode(raw: bytes) -> Any:
    """The value written in ``raw``. Raises RowError saying what is wrong and at which column."""
    text = utf8(raw).rstrip()  # a fault at the end of the line is not one of the next line
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(f'bad JSON: {error.msg} at column {error.colno}') from None
    except RecursionError:
        raise RowError(f'too deep: nested more than {MAX_DEPTH} levels') from None
    if raw.count(b'{') + raw.count(b'[') > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise RowError(f'too deep: nested more than {MAX_DEPTH} levels')
    if SURROGATE.search(raw):
        _refuse_lone_surrogates(value)
    return value


def utf8(raw: bytes) -> str:
    """``raw`` as text. Raises RowError naming the first byte that is no UTF-8."""
    try:
        return raw.decode('utf-8')
    except UnicodeDecodeError as error:
        raise RowError(
            f'invalid UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}. Save the file as UTF-8'
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RowError(f'duplicate key: {twice!r} is given twice in one object')
    return value


def _constant(name: str) -> float:
    raise RowError(f'not a finite number: {name} is no JSON. Write null, or leave the key out')


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float('inf'), float('-inf')):
        raise RowError(f'not a finite number: {digits[:20]} is too large')
    return value


def _int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise RowError(f'number too large: {digits[:20]}... does not fit 64 bits. Write it as text')
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_float, parse_int=_int)


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode('utf-8')
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise RowError(f'invalid text: \\u{ord(half):04x} is half of a surrogate pair') from None
