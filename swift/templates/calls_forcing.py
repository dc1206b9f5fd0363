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
from swift.templates.calls import Format

MOST = 8  # calls in one answer
GUIDANCE = {'lenient': True, 'whitespace_pattern': r'[ \t\r\n]{0,24}'}  # what cannot be enforced is left to the model
ANY = r'/(.|\n)*/'


def forced(
    template: Any,
    tools: Sequence[Mapping[str, Any]],
    choice: Any,
    *,
    parallel: bool = True,
    prompt_ids: Sequence[int] = (),
    calls: str | None = None,
) -> Grammar | None:
    """What an answer must be by the ``tool_choice`` of a request and its ``strict`` tools; None where it is free.

    Args:
        choice: 'auto', 'none', 'required', None, or ``{'type': 'function', 'function': {'name': ...}}``: one call of
            that tool.
        parallel: whether there may be more calls than one.
        prompt_ids: the prompt, at whose end the reasoning may have been opened.
        calls: name of the format of calls; None takes the template's own.

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
    writer = _Writer(speech.calls, special_tokens(template.tokenizer), MOST if parallel else 1)
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


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Control tokens, which a grammar can only call by their ids."""
    return {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


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
        return bool(parts) and self.form.body != 'harmony' and (parts[0] in self._special or len(parts) == 1)

    @property
    def _mark(self) -> str:
        return self.form.section[0] + self.form.open

    def grammar(
        self, functions: Sequence[Mapping[str, Any]], tags: Sequence[tuple[str, str]], opened: str, *, free: bool
    ) -> str:
        """The whole grammar; ``free``: of any text, in which there may be calls."""
        call = self.rule(' | '.join(self.rule(CALLS[self.form.body](self, each)) for each in functions))
        calls = f'{self.text_until(self._mark) if free else self.said(self._mark)} {self._after_mark(call)}'
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
        if form.body == 'harmony':
            return call
        whole = f'{call} {self.said(form.close)}'
        return f'{self._several(whole, form.between + form.open)} {self.said(form.section[1])}'

    def _several(self, call: str, between: str) -> str:
        more = self._most - 1
        return f'{call} ({self.said(between)} {call}){{0,{more}}}' if more else call

    def _thought(self, tags: Sequence[tuple[str, str]], opened: str) -> str:
        """Reasoning that comes first, as far as there may be some."""
        if self.form.body == 'harmony':
            end = self.text_until('<|end|>')
            return f'({self.said("<|channel|>analysis<|message|>")} {end} {self.said("<|start|>assistant")})?'
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
    form = writer.form
    number = ' ":" /[0-9]{1,2}/ ' if form.numbered else ' '
    return f'{writer.said(function["name"])}{number}{writer.said(form.name_end)} {writer.json(parameters(function))}'


def _tags(writer: _Writer, function: Mapping[str, Any]) -> str:
    schema = parameters(function)
    required = schema.get('required', ())
    parts = []
    for key, of in schema.get('properties', {}).items():
        part = writer.rule(_tag(writer, key, of if isinstance(of, Mapping) else {}))
        parts.append(part if key in required else f'{part}?')
    return f'{writer.said(function["name"] + writer.form.name_end)} {" ".join(parts)}'


def _tag(writer: _Writer, key: str, schema: Mapping[str, Any]) -> str:
    before, after, end = writer.form.key
    text = schema.get('type') == 'string'
    attribute = f'" string="{"true" if text else "false"}"' if writer.form.typed else ''
    head = writer.said(before + key + attribute + after)
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


CALLS: dict[str, Callable[[_Writer, Mapping[str, Any]], str]] = {
    'object': _object,
    'named': _named_call,
    'tags': _tags,
    'python': _python,
    'harmony': _harmony,
}


def parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object of its properties and no others unless it says so."""
    schema = dict(function.get('parameters') or {})
    closed = {'additionalProperties': False} if schema.get('properties') or not schema else {}
    return {'type': 'object', **closed, **schema}


def quoted(text: str) -> str:
    """A text in Lark's quotes."""
    return json.dumps(text, ensure_ascii=False)
