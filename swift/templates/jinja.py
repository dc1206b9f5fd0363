"""A chat template's Jinja source, compiled once with the semantics that transformers gives it.

In: the source, and messages as dicts. Out: the text, equal to ``tokenizer.apply_chat_template(tokenize=False)``
(tests hold this for every template they can find). Two things are ours: the clock stands still, so that a template
that prints the date gives one row one text for the whole run, and ``{% generation %}`` blocks can be marked in the
output instead of being counted.

Errors: ``Refusal`` carries what the template said by ``raise_exception``; whatever else a template does wrong while it
renders is a ``Failure``. Both are RowErrors: the row and the template do not fit each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from swift.core.errors import RowError, TemplateError

# Characters that stand for those of a row in a coded rendering (see trace.py): each position of a row has its own.
# Blanks have stand-ins that strip() and split() take for blanks, and that hardly any text contains.
FIRST_CODE, LAST_CODE = 0x40000, 0x10FFFD
STAND_INS = {' ': '\u2000', '\n': '\u2001', '\t': '\u2004', '\r': '\u2006'}
# Written around a {% generation %} block in a coded rendering.
OPEN, CLOSE = '\U0010fffe', '\U0010ffff'
_ESCAPED = re.compile(f'[^\\x00-\\x7f{"".join(STAND_INS.values())}{chr(FIRST_CODE)}-{CLOSE}]')
ROLE_NAMES = frozenset({'system', 'developer', 'user', 'assistant', 'tool', 'ipython', 'function', 'model', 'chatbot'})


class Refusal(RowError):
    """The template's own ``raise_exception``: a rule of the template that the row breaks."""


class Failure(RowError):
    """The template broke while rendering: an undefined value, a wrong type."""


class _Raised(jinja2.TemplateError):
    """Carries the message of ``raise_exception`` through Jinja."""


@dataclass(frozen=True)
class Source:
    """A chat template's text, and what can be read from it without rendering."""

    text: str
    name: str = 'chat template'

    @cached_property
    def tree(self) -> nodes.Template:
        try:
            return _environment(coded=False).parse(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f'{self.name}: line {error.lineno}: {error.message}') from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that the template takes from outside: ``tools``, ``enable_thinking`` ..."""
        return frozenset(jinja2.meta.find_undeclared_variables(self.tree))

    @cached_property
    def shows_tools(self) -> bool:
        return any(name.name == 'tools' and name.ctx == 'load' for name in self.tree.find_all(nodes.Name))

    @cached_property
    def literals(self) -> frozenset[str]:
        """Every string constant that is not a key."""
        keys = {id(node.arg) for node in self.tree.find_all(nodes.Getitem)}
        constants = (node for node in self.tree.find_all(nodes.Const) if id(node) not in keys)
        return frozenset(node.value for node in constants if isinstance(node.value, str) and node.value)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Names of fields that it reads: ``x.name``, ``x['name']``, ``x.get('name')``."""
        found = {_key(node) for kind in (nodes.Getattr, nodes.Getitem) for node in self.tree.find_all(kind)}
        for call in self.tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Getattr) and call.node.attr == 'get':
                found.update(arg.value for arg in call.args[:1] if isinstance(arg, nodes.Const))
        return frozenset(name for name in found if isinstance(name, str))

    @cached_property
    def types(self) -> frozenset[str]:
        """Types of content parts that it tells apart: ``part['type'] == 'text'``."""
        found = set()
        for compare in self.tree.find_all(nodes.Compare):
            if _key(compare.expr) == 'type':
                found.update(word for operand in compare.ops for word in _constants(operand))
        return frozenset(found)

    @cached_property
    def tests(self) -> frozenset[str]:
        """String constants that the template may look for inside a message: operands of comparisons and arguments
        of methods, filters and tests, without the names of roles."""
        found = set()
        for kind in (nodes.Compare, nodes.Call, nodes.Filter, nodes.Test):
            for node in self.tree.find_all(kind):
                if not (kind is nodes.Call and isinstance(node.node, nodes.Name)):
                    found.update(_constants(node))
        return frozenset(found & self.literals) - ROLE_NAMES

    @cached_property
    def written(self) -> str:
        """All text the template can write by itself, parts held apart by NUL."""
        data = {node.data for node in self.tree.find_all(nodes.TemplateData)}
        return '\0'.join(sorted(data | self.literals))

    def clock(self, now: datetime) -> list[str]:
        """What the template would read off the clock: the same list, the same rendering."""
        readings = []
        for call in self.tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == 'strftime_now':
                form = call.args[0] if call.args else None
                readings.append(now.strftime(form.value) if isinstance(form, nodes.Const) else now.isoformat())
        return readings

    @cached_property
    def marks_generation(self) -> bool:
        """True if it has ``{% generation %}`` blocks."""
        return self.tree.find(nodes.ExtensionAttribute) is not None


def _constants(node: nodes.Node) -> Iterator[str]:
    for found in node.find_all(nodes.Const):
        if isinstance(found.value, str):
            yield found.value


def _key(node: nodes.Node) -> Any:
    """``name`` of ``x.name`` and ``x['name']``."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) else None


class Renderer:
    """Renders one source. ``names`` are the special tokens that templates refer to (``bos_token`` ...)."""

    def __init__(self, source: Source, names: Mapping[str, str], *, now: datetime):
        self.source, self.names, self.now = source, dict(names), now
        try:
            self._plain, self._coded = (_environment(coded=coded).from_string(source.text) for coded in (False, True))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f'{source.name}: line {error.lineno}: {error.message}') from error

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        prompt: bool = False,
        coded: bool = False,
    ) -> str:
        """The conversation as text.

        Args:
            variables: more names for the template: ``enable_thinking``, ``documents`` ...
            prompt: add the generation prompt.
            coded: the messages are codes: mark the generation blocks, and let no filter change a code.

        Raises:
            Refusal: the template forbids this conversation, and says why.
            Failure: the template cannot render it.
        """
        template = self._coded if coded else self._plain
        context = {'strftime_now': self.now.strftime, 'documents': None, **self.names, **(variables or {})}
        context.update(messages=messages, tools=tools, add_generation_prompt=prompt)
        try:
            return template.render(context)
        except _Raised as error:
            raise Refusal(f'the chat template refuses this row: {error.message}') from error
        except Exception as error:  # a template is foreign code: it may fail in any way
            raise Failure(f'the chat template fails on this row: {type(error).__name__}: {error}') from error


# ------------------------------------------------------------------------------------------------- environment
class _Generation(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}``: what the assistant writes."""

    tags = frozenset({'generation'})
    edges = ('', '')

    def parse(self, parser: jinja2.parser.Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return nodes.CallBlock(self.call_method('_write'), [], [], body).set_lineno(line)

    def _write(self, caller: Any) -> str:
        return self.edges[0] + caller() + self.edges[1]


class _CodedGeneration(_Generation):
    edges = (OPEN, CLOSE)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore: a template cannot reach Python through it."""

    def __init__(*args: Any, **values: Any):  # a template may call namespace(self=...)
        self, *first = args
        values = dict(*first, **values)
        for name in values:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith('_'):
        raise jinja2.exceptions.SecurityError(f'a chat template may not set {name!r} on a namespace')


class _Dict:
    """``dict(...)`` for templates, without the attributes of the type."""

    def __call__(self, *args: Any, **values: Any) -> dict:
        return dict(*args, **values)

    def fromkeys(self, *args: Any, **values: Any) -> dict:
        return dict.fromkeys(*args, **values)


def _raise_exception(message: str) -> None:
    raise _Raised(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _coded_tojson(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
    """``_tojson`` that escapes no code."""
    text = _tojson(value, **form)
    return _ESCAPED.sub(lambda found: json.dumps(found.group())[1:-1], text) if ensure_ascii else text


@lru_cache
def _environment(*, coded: bool) -> ImmutableSandboxedEnvironment:
    generation = _CodedGeneration if coded else _Generation
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[generation, jinja2.ext.loopcontrols]
    )
    environment.filters['tojson'] = _coded_tojson if coded else _tojson
    environment.globals.update(raise_exception=_raise_exception, namespace=_Namespace, dict=_Dict())
    return environment
