"""What a request wants its answer to be, out of the words of the OpenAI API, of vLLM and of ms-swift: a Grammar.

Imports no torch: servers read requests with it. How an engine follows a Grammar is in ``grammar.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from swift.core.errors import RequestError, did_you_mean
from swift.core.types import Grammar

GIVEN = 8 << 10  # bytes of a regular expression or grammar


def from_request(
    response_format: Mapping[str, Any] | None = None,
    structured_outputs: Mapping[str, Any] | None = None,
    regex: str | None = None,
) -> Grammar | None:
    """What a request wants its answer to be, in the words of the OpenAI API, of vLLM, and of ms-swift.

    Args:
        response_format: ``{'type': 'json_schema', 'json_schema': {'schema': ...}}``; the type may be ``text``,
            ``json_object``, and, each with a field of its name, ``regex``, ``choice`` and ``grammar``.
        structured_outputs: One of ``json``, ``regex``, ``choice``, ``grammar`` and ``json_object``.
        regex: A regular expression, ``structured_outputs_regex``.

    Raises:
        RequestError: naming the field that is wrong.
    """
    given = {
        'response_format': response_format and _of_format(response_format),
        'structured_outputs': structured_outputs and _of_outputs(structured_outputs),
        'structured_outputs_regex': None if regex is None else _of('regex', regex, 'structured_outputs_regex'),
    }
    asked = {name: grammar for name, grammar in given.items() if grammar}
    if len(asked) > 1:
        raise RequestError(f'{" and ".join(asked)} are given; an answer follows one', param=next(reversed(asked)))
    return next(iter(asked.values()), None)


def _of_format(value: Mapping[str, Any]) -> Grammar | None:
    param = 'response_format'
    kind = value.get('type')
    if kind == 'text':
        return None
    if kind == 'json_schema':
        return _of('json', _field(_field(value, kind, param), 'schema', f'{param}.{kind}'), f'{param}.{kind}.schema')
    if kind in ('json_object', 'regex', 'choice', 'grammar'):
        return _of(kind, True if kind == 'json_object' else _field(value, kind, param), f'{param}.{kind}')
    known = ('text', 'json_object', 'json_schema', 'regex', 'choice', 'grammar')
    raise RequestError(
        f'response_format.type {kind!r}: unknown{did_you_mean(str(kind), known)} Known: {", ".join(known)}',
        param=f'{param}.type',
    )


def _of_outputs(value: Mapping[str, Any]) -> Grammar | None:
    asked = {kind: wanted for kind, wanted in value.items() if wanted is not None and wanted is not False}
    unknown = asked.keys() - READERS.keys()
    if unknown or len(asked) > 1:
        problem = f'unknown: {", ".join(sorted(unknown))}' if unknown else f'{" and ".join(asked)} at once'
        raise RequestError(
            f'structured_outputs: {problem}; give one of {", ".join(READERS)}', param='structured_outputs'
        )
    return next((_of(kind, wanted, f'structured_outputs.{kind}') for kind, wanted in asked.items()), None)


def _field(value: Any, name: str, where: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise RequestError(f'{where} needs the field {name!r}', param=where)
    return value[name]


def _of(kind: str, value: Any, param: str) -> Grammar:
    try:
        return READERS[kind](value)
    except ValueError as error:
        raise RequestError(f'{param}: {error}', param=param) from error


def _schema(value: Any) -> Grammar:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping | bool):
        raise ValueError('a JSON schema is an object')
    return Grammar('json', json.dumps(value, ensure_ascii=False))


def _text(kind: Any, value: Any) -> Grammar:
    if not isinstance(value, str) or not value:
        raise ValueError('it must be a text that is not empty')
    if len(value.encode()) > GIVEN:
        raise ValueError(f'it has more than {GIVEN} bytes')
    return Grammar(kind, value)


def _choices(value: Any) -> Grammar:
    if not value or not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ValueError('choices are a list of one string or more')
    return Grammar('choice', json.dumps(list(value), ensure_ascii=False))


READERS: dict[str, Callable[[Any], Grammar]] = {
    'json': _schema,
    'json_object': lambda value: Grammar('json', '{"type": "object"}'),
    'regex': lambda value: _text('regex', value),
    'choice': _choices,
    'grammar': lambda value: _text('lark', value),
}
