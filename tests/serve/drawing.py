"""Values drawn from a JSON schema: right ones, and ones that are wrong in one place, for fuzzing without a library."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import strategies as st

text = st.text(st.characters(blacklist_categories=['Cs']), max_size=20)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), text)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)


def values(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema allows, nearly always: patterns and rules between fields are not looked at."""
    if '$ref' in schema:
        name = schema['$ref'].rpartition('/')[2]
        return st.deferred(lambda: values(parts[name], parts))
    if 'const' in schema:
        return st.just(schema['const'])
    if 'enum' in schema:
        return st.sampled_from(schema['enum'])
    for several in ('anyOf', 'oneOf'):
        if several in schema:
            return st.one_of([values(each, parts) for each in schema[several]])
    return MAKERS[schema.get('type', 'any')](schema, parts)


def _object(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
    fields = schema.get('properties')
    if fields is None:
        inner = schema.get('additionalProperties')
        return st.dictionaries(text, values(inner, parts) if isinstance(inner, dict) else anything, max_size=3)
    needed = {name: values(fields[name], parts) for name in schema.get('required', ())}
    others = {name: values(each, parts) for name, each in fields.items() if name not in needed}
    some = st.lists(st.sampled_from(sorted(others)), max_size=4, unique=True) if others else st.just([])
    return some.flatmap(lambda names: st.fixed_dictionaries({**needed, **{name: others[name] for name in names}}))


def _array(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
    least = schema.get('minItems', 0)
    most = max(least, min(schema.get('maxItems', 4), least + 3))
    return st.lists(values(schema.get('items', {}), parts), min_size=least, max_size=most)


def _text(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
    if 'pattern' in schema:
        return st.from_regex(schema['pattern'], fullmatch=True).filter(lambda made: len(made) <= 64)
    most = min(schema.get('maxLength', 40), schema.get('minLength', 0) + 40)
    return st.text(st.characters(blacklist_categories=['Cs']), min_size=schema.get('minLength', 0), max_size=most)


def _numbers(draw: Any, low: Any, high: Any) -> Any:
    def make(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
        least = schema.get('minimum', schema.get('exclusiveMinimum', low))
        made = draw(least, schema.get('maximum', high))
        return made.filter(lambda number: number != schema.get('exclusiveMinimum'))

    return make


MAKERS: dict[str, Any] = {
    'object': _object,
    'array': _array,
    'string': _text,
    'integer': _numbers(st.integers, -(2**31), 2**31),
    'number': _numbers(lambda low, high: st.floats(low, high, allow_nan=False), -1e6, 1e6),
    'boolean': lambda schema, parts: st.booleans(),
    'null': lambda schema, parts: st.none(),
    'any': lambda schema, parts: anything,
}


@st.composite
def spoiled(draw: Any, whole: st.SearchStrategy[Any]) -> Any:
    """A right value with one thing changed, somewhere in it."""
    made = draw(whole)
    where = made
    while isinstance(where, dict | list) and where:
        keys = sorted(where) if isinstance(where, dict) else list(range(len(where)))
        key = draw(st.sampled_from(keys))
        inner = where[key]
        if not (isinstance(inner, dict | list) and inner) or draw(st.booleans()):
            change = draw(st.sampled_from(['value', 'removed', 'more']))
            if change == 'value':
                where[key] = draw(anything)
            elif change == 'removed':
                del where[key]
            elif isinstance(where, dict):
                where[draw(text)] = draw(anything)
            return made
        where = inner
    return made


ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 1e308, -0.0, 0.5, '', ' ', '\0', 'NaN', '\u202e',
    '你' * 99, '<|im_end|>', '{{ x }}', '../..', [], [[]], [None], {}, {'': {}}, {'$ref': '#'}, [0] * 99,
]  # fmt: skip
RAW = [
    b'NaN', b'Infinity', b'1e999', b'"\\ud800"', b'\xff', b'\0', b'{', b'}', b'[', b']', b',', b'"', b'\\', b'9' * 400,
]  # fmt: skip


def mutated(body: Any, draw: random.Random) -> bytes:
    """The JSON of a body with one thing changed: a value of it, or bytes of its text. Thousands a second."""
    if draw.random() < 0.1:
        return json.dumps(body).encode()
    if draw.random() < 0.2:
        text = bytearray(json.dumps(body, ensure_ascii=draw.random() < 0.5).encode())
        start = draw.randrange(len(text))
        text[start : start + draw.randrange(4)] = draw.choice(RAW)
        return bytes(text)
    made = copy.deepcopy(body)
    where = made
    while True:
        key = draw.choice(sorted(where) if isinstance(where, dict) else range(len(where)))
        inner = where[key]
        if not (isinstance(inner, dict | list) and inner) or draw.random() < 0.3:
            break
        where = inner
    if draw.random() < 0.2:
        del where[key]
    elif draw.random() < 0.2 and isinstance(where, dict):
        where[draw.choice(['', 'n', 'stream', 'x', 'type', 'role', 'content'])] = draw.choice(ODD)
    else:
        where[key] = draw.choice(ODD)
    return json.dumps(made).encode()
