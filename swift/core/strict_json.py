"""Strict JSON: what a lenient parser lets through in silence is a fault here.

In: the bytes of one value. Out: the value. NaN and Infinity, numbers that overflow, integers beyond 64 bits, a key
given twice, invalid UTF-8, half of a surrogate pair and deep nesting raise ``Fault``.
"""

from __future__ import annotations

import json
import re
from typing import Any

SHOWN = 80  # characters of a key or a number in a message
SURROGATE = re.compile(rb'\\u[dD][89a-fA-F]')


class Fault(ValueError):
    """What is wrong with a text, in words for its author."""


def decode(raw: bytes, *, depth: int) -> Any:
    """The value written in ``raw``, nested at most ``depth`` levels. Raises Fault."""
    text = utf8(raw).rstrip()  # a fault at the end of the line is not one of the next line
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Fault(f'bad JSON: {error.msg} at column {error.colno}') from None
    except RecursionError:
        raise Fault(f'too deep: nested more than {depth} levels') from None
    if raw.count(b'{') + raw.count(b'[') > depth and _deeper_than(value, depth):
        raise Fault(f'too deep: nested more than {depth} levels')
    if SURROGATE.search(raw):
        _refuse_lone_surrogates(value)
    return value


def utf8(raw: bytes) -> str:
    """``raw`` as text. Raises Fault naming the first byte that is no UTF-8."""
    try:
        return raw.decode('utf-8')
    except UnicodeDecodeError as error:
        raise Fault(f'invalid UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Fault(f'duplicate key: {twice[:SHOWN]!r} is given twice in one object')
    return value


def _constant(name: str) -> float:
    raise Fault(f'not a finite number: {name} is no JSON. Write null, or leave the key out')


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float('inf'), float('-inf')):
        raise Fault(f'not a finite number: {digits[:SHOWN]} is too large')
    return value


def _int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise Fault(f'number too large: {digits[:20]}... does not fit 64 bits. Write it as text')
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
        raise Fault(f'invalid text: \\u{ord(half):04x} is half of a surrogate pair') from None
