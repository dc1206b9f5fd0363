"""What a flag is: a field of an inert dataclass, the kind of value it takes, and the help below it.

Goes in: dataclass groups as the rooms keep them in ``args.py``. Comes out: ``Flag`` rows that the parser, the help and
the tables of the documentation read. ``Kind`` turns words, YAML scalars and Python values into checked values.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from swift.core.errors import did_you_mean

TRUE = frozenset({'true', '1', 'yes', 'y', 't', 'on'})
FALSE = frozenset({'false', '0', 'no', 'n', 'f', 'off'})
SECRET = re.compile(
    r'(token|secret|password|api_?key|access_key|quota_store)$', re.IGNORECASE
)  # never written, never shown
NONE = frozenset({'none', 'None', 'null'})
WANTED = {
    'bool': 'true or false',
    'int': 'a whole number',
    'float': 'a number',
    'str': 'text',
    'json': 'JSON text or a JSON file',
    'bool|str': 'true, false or a file',
}
PLACEHOLDER = {
    'bool': 'true|false',
    'int': 'INT',
    'float': 'FLOAT',
    'str': 'TEXT',
    'json': 'JSON',
    'bool|str': '[FILE]',
}


@dataclass(frozen=True, slots=True)
class Kind:
    """The values a flag takes: ``base`` names one of ``WANTED``; ``choices`` closes it; ``many`` makes it a list."""

    base: str
    choices: tuple[Any, ...] = ()
    many: bool = False
    optional: bool = False

    @classmethod
    def of(cls, annotation: Any) -> Kind:
        """The kind of an annotation: ``int``, ``list[str] | None``, ``Literal[...]``, ``dict | str | None`` ..."""
        arms = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
        optional = type(None) in arms
        arms = tuple(arm for arm in arms if arm is not type(None))
        if typing.get_origin(arms[0]) is list:
            item = cls.of(typing.get_args(arms[0])[0])
            return dataclasses.replace(item, many=True, optional=optional)
        if typing.get_origin(arms[0]) is typing.Literal:
            return cls('str', choices=typing.get_args(arms[0]), optional=optional)
        names = {arm.__name__ for arm in arms}
        base = 'json' if 'dict' in names else '|'.join(sorted(names))
        assert base in WANTED, annotation
        return cls(base, optional=optional)

    @classmethod
    def named(cls, text: str) -> Kind:
        """The kind written as in the table of established flags: ``int``, ``str?``, ``list[str]``, ``a|b|c?``."""
        optional, text = text.endswith('?'), text.removesuffix('?')
        if text.startswith('list['):
            return dataclasses.replace(cls.named(text[5:-1]), many=True, optional=optional)
        if text == 'dict':
            return cls('json', optional=True)
        if text in WANTED:
            return cls(text, optional=optional)
        return cls('str', choices=tuple(text.split('|')), optional=optional)

    @property
    def placeholder(self) -> str:
        """What stands for the value in the help."""
        inner = '|'.join(map(str, self.choices)) if self.choices else PLACEHOLDER[self.base]
        return f'{inner} ...' if self.many else inner

    def read_words(self, words: Sequence[str]) -> Any:
        """The value of what stood after a flag on the command line. Raises ValueError saying what was expected."""
        if not words and self.base in ('bool', 'bool|str') and not self.many:
            return True
        if not words:
            raise ValueError(f'needs a value: {self.wanted}')
        if self.many:
            if len(words) == 1 and (listed := _json_list(words[0])) is not None:
                return self.read_value(listed)
            if len(words) == 1 and self.optional and words[0] in NONE:
                return None
            return [self._scalar(word) for word in words]
        if len(words) > 1:
            raise ValueError(f'takes one value, got {len(words)}; put quotes around a value with spaces')
        return self.read_text(words[0])

    def read_text(self, text: str, *, quoted: bool = False) -> Any:
        """The value of one word or YAML scalar; ``quoted`` keeps ``'none'`` from meaning None."""
        if self.many:
            return self.read_words([text])
        if self.optional and not quoted and text in NONE and text not in self.choices:
            return None
        return self._scalar(text)

    def read_value(self, value: Any) -> Any:
        """The value of a Python object (a JSON file, a dataclass of the caller), checked the same way."""
        if value is None:
            if self.optional:
                return None
            raise ValueError(f'expected {self.wanted}, got none')
        if self.many:
            items = value if isinstance(value, (list, tuple)) else [value]
            return [dataclasses.replace(self, many=False, optional=False).read_value(item) for item in items]
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if self.base == 'json' and isinstance(value, dict):
            return value
        if isinstance(value, (dict, list, tuple)):
            raise ValueError(f'expected {self.wanted}, got a {type(value).__name__}')
        if self.base == 'bool' and isinstance(value, int) and not isinstance(value, bool):
            raise ValueError(f'expected {self.wanted}, got {value!r}')
        if isinstance(value, bool):
            value = str(value).lower()
        return self._scalar(value if isinstance(value, str) else repr(value))

    @property
    def wanted(self) -> str:
        """The words of error messages."""
        return ' or '.join(map(str, self.choices)) if self.choices else WANTED[self.base]

    def _scalar(self, text: str) -> Any:
        if self.choices:
            return self._choice(text)
        try:
            value = READ[self.base](text)
        except ValueError as error:
            raise ValueError(str(error) if self.base == 'json' else f'expected {self.wanted}, got {text!r}') from None
        return value

    def _choice(self, text: str) -> Any:
        for choice in self.choices:
            if str(choice) == text:
                return choice
        names = [str(choice) for choice in self.choices]
        raise ValueError(f'{text!r} is none of {", ".join(names)}{did_you_mean(text, names)}')


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a verb. ``groups`` are the fields of the configuration that carry it (``train``, ``data`` ...).

    ``plain`` is the default of the group, ``default`` that of the verb.
    """

    name: str
    kind: Kind
    plain: Any
    default: Any
    groups: tuple[str, ...]


@cache
def flags_of(config: type) -> dict[str, Flag]:
    """The flags of a configuration class: the fields of its dataclass fields, in order.

    ``config.defaults`` overrides single defaults. A name may belong to two groups of one verb; it is then one flag.
    """
    flags: dict[str, Flag] = {}
    for group, cls in groups_of(config).items():
        fresh = cls()
        for field in dataclasses.fields(cls):
            plain = getattr(fresh, field.name)
            default = config.defaults.get(field.name, plain)
            before = flags[field.name].groups if field.name in flags else ()
            flags[field.name] = Flag(field.name, Kind.of(field.type), plain, default, (*before, group))
    return flags


def groups_of(config: type) -> dict[str, type]:
    """The group dataclasses of a configuration class by the name of their field."""
    return {
        f.name: f.default_factory for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.default_factory)
    }


def documentation(cls: type) -> dict[str, str]:
    """Field name -> the docstring below it, read from the source of ``cls`` and its bases."""
    import ast
    import inspect

    texts: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        module = ast.parse(Path(inspect.getfile(owner)).read_text(encoding='utf-8'))
        body = next(n.body for n in module.body if isinstance(n, ast.ClassDef) and n.name == owner.__name__)
        for field, text in itertools.pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = ' '.join(str(text.value.value).split())
    return texts


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _bool(text: str) -> bool:
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _json(text: str) -> Any:
    """JSON text, the content of a JSON file, or plain text (``auto``, ``zero2``)."""
    if text.lstrip().startswith(('{', '[')):
        return _parsed(text, 'this text')
    if text.endswith('.json'):
        if not Path(text).is_file():
            raise ValueError(f'there is no file {text}')
        return _parsed(Path(text).read_text(encoding='utf-8'), text)
    return text


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'{where} is not JSON: {error}') from None


def _json_list(word: str) -> list[Any] | None:
    """The list when ``word`` is a JSON list; None when it is an ordinary word such as the regex ``[ab]_proj``."""
    if not word.startswith('['):
        return None
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return None


def _bool_or_text(text: str) -> bool | str:
    return text.lower() == 'true' if text.lower() in ('true', 'false') else text


READ = {'bool': _bool, 'int': int, 'float': _float, 'str': str, 'json': _json, 'bool|str': _bool_or_text}
