"""Asking a value of a row what it is, once; every answer that is not the expected one is a RowError that teaches."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from swift.core.errors import RowError
from swift.data.tables import strict

TYPE_NAMES = {
    type(None): 'null',
    bool: 'true or false',
    int: 'a number',
    float: 'a number',
    str: 'text',
    list: 'a list',
    tuple: 'a list',
    dict: 'an object',
    bytes: 'bytes',
}


def type_name(value: Any) -> str:
    """What a value is, in JSON's words."""
    return TYPE_NAMES.get(type(value), f'a {type(value).__name__}')


def shown(value: Any, most: int = 40) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= most else f'{text[:most]}...'


def text(value: Any, what: str) -> str:
    """``value`` as text. Nothing else is made into text: 1.0 and "1.0" are not the same answer."""
    if isinstance(value, str):
        return value
    if value is None:
        raise RowError(f'missing content: {what} is null')
    hint = ' Put it in quotes' if isinstance(value, int | float) else ''
    raise RowError(f'wrong type: {what} is {type_name(value)} ({shown(value)}), expected text.{hint}')


def number(value: Any, what: str) -> float:
    """``value`` as a finite number; text that spells one counts, since csv knows nothing else."""
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f'wrong type: {what} is {type_name(value)} ({shown(value)}), expected a number')
    if not math.isfinite(value):
        raise RowError(f'not a finite number: {what} is {value}')
    return value


def scalar(value: Any) -> Any:
    """Text that spells true, false or a number as that; everything else as it is."""
    if not isinstance(value, str):
        return value
    lowered = value.strip().lower()
    if lowered in ('true', 'false'):
        return lowered == 'true'
    for kind in (int, float):
        try:
            return kind(lowered)
        except ValueError:
            continue
    return value


def truth(value: Any) -> Any:
    """true and false, or text that spells them, as 1 and 0; everything else as it is."""
    value = scalar(value)
    return int(value) if isinstance(value, bool) else value


def structure(value: Any, what: str) -> Any:
    """A list or an object; text that spells one counts, in JSON or as Python prints it (csv, parquet)."""
    if isinstance(value, list | dict):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str) and value.strip()[:1] in ('[', '{'):
        try:
            return strict.decode(value.encode('utf-8', 'surrogatepass'))
        except RowError as error:
            return _python_literal(value, what, error)
    raise RowError(f'wrong type: {what} is {type_name(value)} ({shown(value)}), expected a list')


def _python_literal(value: str, what: str, json_error: RowError) -> Any:
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise RowError(f'bad JSON in {what}: {str(json_error).removeprefix("bad JSON: ")}') from None
    if not isinstance(found, list | dict):
        raise RowError(f'wrong type: {what} spells {type_name(found)}, expected a list')
    return found


def array(value: Any, what: str) -> list[Any]:
    """``value`` as a list."""
    found = structure(value, what)
    if not isinstance(found, list):
        raise RowError(f'wrong type: {what} is {type_name(found)}, expected a list')
    return found


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """``value`` as an object."""
    if isinstance(value, Mapping):
        return value
    raise RowError(f'wrong type: {what} is {type_name(value)} ({shown(value)}), expected an object')


def dump(value: Any) -> str:
    """``value`` as JSON text for a prompt."""
    return json.dumps(value, ensure_ascii=False)
