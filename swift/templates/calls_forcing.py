"""Grammars of answers that call tools: that must (``tool_choice`` required, or a tool by name), or that may, and then
with arguments of the tool's schema (``strict`` tools).

They are written in llguidance's dialect of Lark, out of the rows of ``calls.py``. A model that reasons may do so first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swift.core.errors import RequestError
from swift.core.types import Grammar
from swift.templates.answers import Speech, opened_by
from swift.templates.calls import Format, attribute
from swift.templates.calls_reading import QUOTE

MOST = 8  # calls in one answer
GUIDANCE = {'lenient': True, 'whitespace_pattern': r'[ \t\r\n]{0,24}'}  # what cannot be enforced is left to the model
ANY = r'/(.|\n)*/'
CHANNELS = {'harmony': ('<|channel|>analysis<|message|>', '<|end|>'), 'atem': (' to=self<|message|>', '<|eom|>')}
"""Bodies that are messages with a header, and what stands around one of reasoning."""


def forced(
    template: Any,
    tools: Sequence[Mapping[str, Any]],
    choice: Any,
    *,
    parallel: bool = True,
    prompt_ids: Sequence[int] = (),
    calls: str | None = None,
    angled: bool = False,
) -> Grammar | None:
    """What an answer must be by the ``tool_choice`` of a request and its ``strict`` tools; None where it is free.

    Args:
        choice: 'auto', 'none', 'required', None, or ``{'type': 'function', 'function': {'name': ...}}``: one call of
            that tool.
        parallel: whether there may be more calls than one.
        prompt_ids: the prompt, at whose end the reasoning may have been opened.
        calls: name of the format of calls; None takes the template's own.
        angled: whether the engine takes every added token in angle brackets for a control token.

    Raises:
        RequestError: naming the field that is wrong.
        ConfigError: ``calls`` is no format.
    """
    functions = [tool.get('function', tool) for tool in tools]
    free = choice in (None, 'auto')
    if choice == 'none' or (free and not any(each.get('strict') for each in functions)):
        return None
    if not free and choice != 'required':
        functions, parallel = [_named(functions, choice)], False
    if not functions:
        raise RequestError('tool_choice: there are no tools to choose from', param='tool_choice')
    speech: Speech = getattr(template, 'speech', Speech()).named(calls)
    what, param = ('tools: strict', 'tools') if free else (f'tool_choice {choice!r}', 'tool_choice')
    if speech.calls is None or speech.calls.body not in CALLS:
        raise RequestError(
            f'{what}: calls cannot be forced with this chat template; --agent_template names a format', param=param
        )
    writer = _Writer(speech.calls, special_tokens(template.tokenizer, angled=angled), MOST if parallel else 1)
    if free and not writer.is_marked:
        raise RequestError(
            f'{what}: this model marks no call before its name, so that only forced ones can be held to a schema; '
            'leave strict out, or set tool_choice to required',
            param=param,
        )
    return Grammar('lark', writer.grammar(functions, speech.tags, opened_by(template, prompt_ids, speech), free=free))


def _named(functions: Sequence[Mapping[str, Any]], choice: Any) -> Mapping[str, Any]:
    name = choice.get('function', {}).get('name') if isinstance(choice, Mapping) else None
    if not isinstance(name, str):
        raise RequestError(
            f'tool_choice {choice!r}: auto, none, required or {{"type": "function", "function": {{"name": ...}}}}',
            param='tool_choice',
        )
    found = next((each for each in functions if each.get('name') == name), None)
    if found is None:
        names = ', '.join(str(each.get('name')) for each in functions) or 'none'
        raise RequestError(f'tool_choice names {name!r}, which is none of the tools: {names}', param='tool_choice')
    return found


def special_tokens(tokenizer: Any, *, angled: bool) -> dict[str, int]:
    """Control tokens, which a grammar can only call by their ids; with ``angled`` also such as ``<tool_call>``."""
    added = {token.content: (id, token) for id, token in tokenizer.added_tokens_decoder.items()}
    like = lambda text: angled and text.startswith('<') and text.endswith('>')
    return {text: id for text, (id, token) in added.items() if token.special or like(text)}


class _Writer:
    """Writes the grammar of one request."""

    def __init__(self, form: Format, special: Mapping[str, int], most: int):
        self.form = form
        self.rules: list[str] = []
        self._most = most
        self._special = special
        names = sorted(special, key=len, reverse=True)
        self._split = re.compile('(' + '|'.join(map(re.escape, names)) + ')') if names else re.compile('(?!)')

    @property
    def is_marked(self) -> bool:
        """Whether a text of its own begins a call, which can be waited for in an answer."""
        parts = [part for part in self._split.split(self._mark) if part]
        return bool(parts) and (parts[0] in self._special or len(parts) == 1)

    @property
    def _mark(self) -> str:
        return '' if self.form.body in CHANNELS else self.form.section[0] + self.form.open

    def grammar(
        self, functions: Sequence[Mapping[str, Any]], tags: Sequence[tuple[str, str]], opened: str, *, free: bool
    ) -> str:
        """The whole grammar; ``free``: of any text, in which there may be calls."""
        call = self.rule(' | '.join(self.rule(CALLS[self.form.body](self, each)) for each in functions))
        mark = self.text_until(self._mark) if free else f'{self._silence()} {self.said(self._mark)}'
        calls = f'{mark} {self._after_mark(call)}'
        if free:
            calls = f'({self.rule(calls)}){"*" if self._most > 1 else "?"} {self.rule(ANY)}'
        return '\n'.join([f'start: {f"{self._thought(tags, opened)} {calls}".strip()}', *self.rules])

    def rule(self, body: str) -> str:
        """The name of a rule."""
        name = f'r{len(self.rules)}'
        self.rules.append(f'{name}: {body}')
        return name

    def said(self, text: str) -> str:
        """A text, in which control tokens are called by their ids."""
        parts = [part for part in self._split.split(text) if part]
        return ' '.join(f'<[{self._special[part]}]>' if part in self._special else quoted(part) for part in parts)

    def name(self, function: Mapping[str, Any]) -> str:
        """The name of a tool, perhaps counted, and what ends it."""
        before, counted, after = self.form.counted.replace('{1}', '{0}').partition('{0}')
        number = f'{quoted(before)} /[0-9]{{1,2}}/' if counted else ''
        return f'{self.said(function["name"])} {number} {self.said(after + self.form.name_end)}'

    def json(self, schema: Any) -> str:
        """A JSON value."""
        return f'%json {json.dumps({**schema, "x-guidance": GUIDANCE}, ensure_ascii=False)}'

    def text_until(self, end: str) -> str:
        """Any text, and what ends it."""
        head, *rest = [part for part in self._split.split(end) if part]
        if head in self._special:
            return f'{self.rule(ANY)} {self.said(end)}'
        if rest:  # a control token inside: its first character must do
            return f'{self.rule(f"/[^{re.escape(head[0])}]*/")} {self.said(end)}'
        self.rules.append(f'r{len(self.rules)}[suffix={quoted(end)}]: {ANY}')
        return f'r{len(self.rules) - 1}'

    def _after_mark(self, call: str) -> str:
        """All calls with what stands around them, without how they begin."""
        form = self.form
        if form.listed or form.body == 'python':
            return f'"[" {self._several(call, ", ")} "]" {self.said(form.close)}'
        if form.body in CHANNELS:
            return call
        whole = f'{call} {self.said(form.close)}'
        return f'{self._several(whole, form.between + form.open)} {self.said(form.section[1])}'

    def _several(self, call: str, between: str) -> str:
        more = self._most - 1
        return f'{call} ({self.said(between)} {call}){{0,{more}}}' if more else call

    def _silence(self) -> str:
        """What models whose words have wrappers write before calls when they say nothing."""
        open, close = self.form.wrappers[:2] or ('', '')
        return f'({self.said(open)})? {self.said(close)}' if close else ''

    def _thought(self, tags: Sequence[tuple[str, str]], opened: str) -> str:
        """Reasoning that comes first, as far as there may be some."""
        if self.form.body in CHANNELS:
            begin, end = CHANNELS[self.form.body]
            return f'({self.said(begin)} {self.text_until(end)} {self.said("<|start|>assistant")})?'
        if opened:
            return f'{self.text_until(dict(tags)[opened])} /\\n{{0,2}}/'
        thoughts = [f'{self.said(open)} {self.text_until(close)}' for open, close in tags]
        return f'(({" | ".join(thoughts)}) /\\n{{0,2}}/)?' if thoughts else ''


# ----------------------------------------------------------------------------------------------------------- bodies
# What stands between ``open`` and ``close``.
def _object(writer: _Writer, function: Mapping[str, Any]) -> str:
    form = writer.form
    head = f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "{form.arguments}": '
    return f'{quoted(head)} {writer.json(parameters(function))} "}}"'


def _named_call(writer: _Writer, function: Mapping[str, Any]) -> str:
    return f'{writer.name(function)} {writer.json(parameters(function))}'


def _tags(writer: _Writer, function: Mapping[str, Any]) -> str:
    schema = parameters(function)
    required = schema.get('required', ())
    parts = []
    for key, of in schema.get('properties', {}).items():
        part = writer.rule(_tag(writer, key, of if isinstance(of, Mapping) else {}))
        parts.append(part if key in required else f'{part}?')
    return f'{writer.name(function)} {" ".join(parts)}'


def _tag(writer: _Writer, key: str, schema: Mapping[str, Any]) -> str:
    before, after, end = writer.form.key
    text = schema.get('type') == 'string'
    kind = schema.get('type')
    kind = {'integer': 'number'}.get(kind, kind) if isinstance(kind, str) else 'object'
    head = writer.said(before + key + attribute(writer.form, kind) + after)
    if text and all(isinstance(each, str) for each in schema.get('enum', [0])):
        return f'{head} ({" | ".join(writer.said(each) for each in schema["enum"])}) {writer.said(end)}'
    return f'{head} {writer.text_until(end)}' if text else f'{head} {writer.json(schema)} {writer.said(end)}'


def _python(writer: _Writer, function: Mapping[str, Any]) -> str:
    schema = parameters(function)
    words = {key: f'{quoted(key + "=")} {writer.json(of)}' for key, of in schema.get('properties', {}).items()}
    required = [words.pop(key) for key in schema.get('required', ()) if key in words]
    parts = ' ", " '.join(required)
    if required:
        parts += ''.join(f' (", " {each})?' for each in words.values())
    elif words:
        parts = f'({" | ".join(words.values())})?'
    return f'{quoted(function["name"] + "(")} {parts} ")"'


def _harmony(writer: _Writer, function: Mapping[str, Any]) -> str:
    head = f'<|channel|>commentary to=functions.{function["name"]} <|constrain|>json<|message|>'
    return f'{writer.said(head)} {writer.json(parameters(function))}'


def _atem(writer: _Writer, function: Mapping[str, Any]) -> str:
    form = writer.form
    head = writer.said(f' to={function["name"]}<|message|>{form.section[0]}{form.open}')
    return f'{head} {_tags(writer, function)} {writer.said(form.close + form.section[1])}'


def _elements(writer: _Writer, function: Mapping[str, Any]) -> str:
    return f'{writer.name(function)} {_inner_elements(writer, parameters(function))}'


def _inner_elements(writer: _Writer, schema: Mapping[str, Any]) -> str:
    required = schema.get('required', ())
    parts = []
    for key, of in (schema.get('properties') or {}).items():
        part = writer.rule(_element(writer, key, of if isinstance(of, Mapping) else {}))
        parts.append(part if key in required else f'{part}?')
    return ' '.join(parts)


def _element(writer: _Writer, key: str, schema: Mapping[str, Any]) -> str:
    mark, kind = writer.form.key[0], schema.get('type')
    head, end = writer.said(f'{mark}<{key}>'), f'{mark}</{key}>'
    if kind == 'object' and schema.get('properties'):
        return f'{head} {_inner_elements(writer, schema)} {writer.said(end)}'
    if kind == 'array' and isinstance(schema.get('items'), Mapping):
        item = writer.rule(_element(writer, 'item', schema['items']))
        return f'{head} {item}{_times(schema)} {writer.said(end)}'
    if texts := _texts(schema):
        return f'{head} ({" | ".join(map(writer.said, texts))}) {writer.said(end)}'
    if kind in ('integer', 'number', 'boolean'):
        return f'{head} {writer.json(schema)} {writer.said(end)}'
    return f'{head} {writer.text_until(end)}'


def _gemma(writer: _Writer, function: Mapping[str, Any]) -> str:
    return f'{quoted(function["name"])} {_gemma_object(writer, parameters(function))}'


def _gemma_object(writer: _Writer, schema: Mapping[str, Any]) -> str:
    required = schema.get('required', ())
    properties = schema.get('properties') or {}
    part = lambda key: f'{quoted(key + ":")} {_gemma_value(writer, properties[key])}'
    must = [writer.rule(part(key)) for key in properties if key in required]
    may = [writer.rule(part(key)) for key in properties if key not in required]
    more = lambda keys: ''.join(f' ("," {key})?' for key in keys)
    if must:
        together = ' "," '.join(must)
        return f'"{{" {together}{more(may)} "}}"'
    alternatives = ' | '.join(key + more(may[at + 1 :]) for at, key in enumerate(may))
    return f'"{{" ({alternatives})? "}}"' if may else '"{}"'


def _gemma_value(writer: _Writer, schema: Any) -> str:
    schema = schema if isinstance(schema, Mapping) else {}
    kind, quote = schema.get('type'), writer.said(QUOTE)
    if kind == 'object' and schema.get('properties'):
        return _gemma_object(writer, schema)
    if kind == 'array' and isinstance(schema.get('items'), Mapping):
        item = writer.rule(_gemma_value(writer, schema['items']))
        low, high = max(1, schema.get('minItems', 0)), schema.get('maxItems', MOST)
        some = f'{item} ("," {item}){{{low - 1},{max(low, high) - 1}}}'
        return f'"[" {some if schema.get("minItems") else f"({some})?"} "]"'
    if texts := _texts(schema):
        return f'{quote} ({" | ".join(map(writer.said, texts))}) {quote}'
    if kind == 'string':
        return f'{quote} {writer.text_until(QUOTE)}'
    if kind in ('integer', 'number', 'boolean', 'null'):
        return writer.json(schema)
    return _any_gemma(writer)


def _any_gemma(writer: _Writer) -> str:
    """Any value, as no schema says which."""
    text = f'{writer.said(QUOTE)} {writer.text_until(QUOTE)}'
    plain = writer.json({'type': ['number', 'boolean', 'null']})
    pair = writer.rule(f'/[A-Za-z_][A-Za-z0-9_]*/ ":" ({text} | {plain})')
    return f'({text} | {plain} | "{{" ({pair} ("," {pair})*)? "}}")'


def _texts(schema: Mapping[str, Any]) -> list[str]:
    """The texts of which a value is one, where they are listed."""
    listed = schema.get('enum', ())
    return list(listed) if all(isinstance(each, str) for each in listed) else []


def _times(schema: Mapping[str, Any]) -> str:
    """How many items a list has."""
    return f'{{{schema.get("minItems", 0)},{schema.get("maxItems", MOST)}}}'


CALLS: dict[str, Callable[[_Writer, Mapping[str, Any]], str]] = {
    'object': _object,
    'named': _named_call,
    'tags': _tags,
    'elements': _elements,
    'python': _python,
    'gemma': _gemma,
    'harmony': _harmony,
    'atem': _atem,
}


def parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object of its properties and no others unless it says so."""
    schema = dict(function.get('parameters') or {})
    closed = {'additionalProperties': False} if schema.get('properties') or not schema else {}
    return {'type': 'object', **closed, **schema}


def quoted(text: str) -> str:
    """A text in Lark's quotes."""
    return json.dumps(text, ensure_ascii=False)
