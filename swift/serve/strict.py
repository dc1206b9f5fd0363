"""Bytes of a body as a checked value of the schema, or one ApiError that names the field. Parsed once, at the door."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from swift.core import strict_json
from swift.serve.errors import ApiError, invalid

M = TypeVar('M', bound=BaseModel)
SHOWN = 80  # characters of a value in a message


def parse(body: bytes, kind: type[M], *, depth: int) -> M:
    """The body as a ``kind``.

    Raises:
        ApiError: 400, the body is no JSON object, or a field is wrong.
    """
    value = read_json(body, depth=depth)
    if not isinstance(value, dict):
        raise invalid('the body must be a JSON object', code='invalid_json')
    return checked(value, kind)


def checked(value: dict[str, Any], kind: type[M]) -> M:
    """A JSON object as a ``kind``. Raises ApiError: a field is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explained(error, value) from None


def read_json(body: bytes, *, depth: int) -> Any:
    """The value of a JSON text. Raises ApiError."""
    try:
        return strict_json.decode(body, depth=depth)
    except strict_json.Fault as fault:
        raise invalid(f'the body is not valid JSON: {fault}', code='invalid_json') from None


# ------------------------------------------------------------------------------------------------------------ words
def _explained(error: ValidationError, body: Any) -> ApiError:
    """The first thing that is wrong, in words, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = min(problems, key=_weight)
    words = first['msg'].removeprefix('Value error, ')
    if not first['loc']:  # about several fields: the words begin with the name of one
        return invalid(words, words.partition(' ')[0].rstrip(':'))
    param = _path(first['loc'], body, is_missing=first['type'] == 'missing')
    words = WORDS.get(first['type'], words[:1].lower() + words[1:])
    more = f' ({len(problems) - 1} more)' if len(problems) > 1 else ''
    code = 'unknown_parameter' if first['type'] == 'extra_forbidden' else 'invalid_value'
    return invalid(f'{param}: {words}{more}', param, code=code)


WORDS = {'extra_forbidden': 'there is no such parameter', 'missing': 'it is missing'}


def _weight(problem: Any) -> tuple[bool, int]:
    """Unknown fields first; among the arms of a union the one that went furthest."""
    return problem['type'] != 'extra_forbidden' or len(problem['loc']) > 1, -len(problem['loc'])


def _path(loc: tuple[Any, ...], value: Any, *, is_missing: bool) -> str:
    """``messages[0].content`` of a location; what the body does not have are pydantic's names of the arms of unions."""
    text = ''
    for part in loc:
        if isinstance(part, int) and isinstance(value, list) and part < len(value):
            text, value = f'{text}[{part}]', value[part]
        elif isinstance(value, dict) and part in value:
            text, value = (f'{text}.{part}' if text else part), value[part]
    if is_missing:
        text = f'{text}.{loc[-1]}' if text else str(loc[-1])
    return _cut(text)


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f'{text[:SHOWN]}...'
