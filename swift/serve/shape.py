"""Whether the schema of a tool's arguments has the shape of one: templates, grammars and readers of calls walk it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAPS = ('properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas')
LISTS = ('anyOf', 'oneOf', 'allOf', 'prefixItems')
SINGLE = ('items', 'additionalProperties', 'not', 'contains', 'propertyNames', 'if', 'then', 'else')
TEXTS = 'a list of texts'


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


PLAIN: dict[str, tuple[Callable[[Any], bool], str]] = {
    'type': (lambda value: isinstance(value, str) or _is_texts(value), f'a text or {TEXTS}'),
    'enum': (lambda value: isinstance(value, list), 'a list'),
    'required': (lambda value: isinstance(value, bool) or _is_texts(value), TEXTS),  # on a property it once was a bool
}
"""Keyword -> what it may be, and how that is said."""


def problem(schema: Any) -> str | None:
    """What is wrong with the schema of an object, beginning with where; None where nothing is."""
    if isinstance(schema, Mapping) and isinstance(schema.get('required'), bool):
        return f'required: expected {TEXTS}'
    return _problem(schema, '')


def _problem(schema: Any, where: str) -> str | None:
    if not isinstance(schema, Mapping):
        return f'{where}: expected an object'
    for name, value in schema.items():
        here = f'{where}.{name}' if where else name
        if name in PLAIN and not PLAIN[name][0](value):
            return f'{here}: expected {PLAIN[name][1]}'
        if name in MAPS:
            if not isinstance(value, Mapping):
                return f'{here}: expected an object'
            inner = {f'{here}.{key}': each for key, each in value.items()}
        elif name in LISTS or (name == 'items' and isinstance(value, list)):
            if not isinstance(value, list):
                return f'{here}: expected a list'
            inner = {f'{here}[{i}]': each for i, each in enumerate(value)}
        else:
            inner = {here: value} if name in SINGLE and not isinstance(value, bool) else {}
        found = next((wrong for place, each in inner.items() if (wrong := _problem(each, place))), None)
        if found:
            return found
    return None
