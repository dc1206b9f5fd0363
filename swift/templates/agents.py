"""Tools in the prompts of checkpoints whose own chat template knows none: ``--agent_template``.

    messages with calls and results, tools --Agent.tell--> messages of plain text

The wording of each is data, ``files/agents.yaml``. The system prompt (or the first question) tells of the tools; calls
become a part of the answers, so they carry loss as answers do; results become questions, which carry none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from swift.core.errors import ConfigError
from swift.core.types import Message
from swift.templates import calls, tools
from swift.templates.calls import Format

FILE = Path(__file__).parent / 'files' / 'agents.yaml'
SAME = {'llama4': 'llama3'}  # another name of a row


@dataclass(frozen=True)
class Agent:
    """One row of the table; see its head for what the fields are. ``last``: the row's system prompt comes last."""

    calls: Format
    tool: str
    result: str
    system: str = ''
    user: str = ''
    between: str = '\n'
    results: str = '\n'
    lead: str = '\n'
    last: bool = False

    def tell(self, messages: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """The conversation in words alone."""
        told: list[Message] = []
        for number, message in enumerate(messages):
            if message.role != 'tool':
                told.append(self._with_calls(message) if message.tool_calls else message)
            elif number and messages[number - 1].role == 'tool':
                told[-1] = replace(told[-1], content=told[-1].content + self.results + self._result(message))
            else:
                told.append(Message('user', self._result(message)))
        return self._with_tools(told, schemas) if schemas else tuple(told)

    def _with_calls(self, message: Message) -> Message:
        """An answer whose calls are a part of its content."""
        said = message.content.rstrip()
        content = (said + self.lead if said else '') + calls.write(self.calls, message.tool_calls)
        return replace(message, content=content, tool_calls=())

    def _result(self, message: Message) -> str:
        return self.result.replace('{{RESULT}}', message.content)

    def _with_tools(self, messages: list[Message], schemas: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        """The conversation with a prompt that tells of the tools."""
        functions = [schema.get('function', schema) for schema in tools.schemas(schemas)]
        words = {
            '{{TOOLS}}': self.between.join(_filled(self.tool, _words(each)) for each in functions),
            '{{NAMES}}': ','.join(str(each.get('name')) for each in functions),
        }
        if self.user:
            first = next((i for i, message in enumerate(messages) if message.role == 'user'), None)
            if first is None:
                return tuple(messages)
            content = _filled(self.user, {**words, '{{USER}}': messages[first].content})
            return (*messages[:first], replace(messages[first], content=content), *messages[first + 1 :])
        own = messages[0].content if messages and messages[0].role == 'system' else ''
        rest = messages[1:] if messages and messages[0].role == 'system' else messages
        return (Message('system', self._system(own, words)), *rest)

    def _system(self, own: str, words: Mapping[str, str]) -> str:
        if not self.last:
            return _filled(self.system, {**words, '{{SYSTEM}}': own}).lstrip('\n')
        told = _filled(self.system, {**words, '{{SYSTEM}}': ''}).lstrip('\n')
        return f'{told}\n\n{own}' if own else told


def names() -> list[str]:
    """Names that ``--agent_template`` renders prompts for."""
    return sorted({*_table(), *SAME})


def of(name: str | None, own: Format | None) -> Agent | None:
    """The row that a flag names; None where nothing is named, or where the checkpoint's template speaks it by itself.

    Args:
        own: the format of calls of the checkpoint's template.

    Raises:
        ConfigError: the name is not known, or belongs to checkpoints whose own templates show tools.
    """
    if name is None:
        return None
    form = calls.by_name(name)
    if form == own:
        return None
    row = _table().get(SAME.get(name, name))
    if row is None:
        raise ConfigError(
            f'--agent_template {name}: its marks are control tokens of its own checkpoints, whose chat templates show '
            f'tools without this flag. For other checkpoints take one of {", ".join(names())}'
        )
    return Agent(**{**row, 'calls': calls.by_name(row['calls'])})


@lru_cache
def _table() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(FILE.read_text(encoding='utf-8'))


def _filled(text: str, words: Mapping[str, str]) -> str:
    """A text with words in their places; what stands in them is left as it is."""
    parts = [text]
    for mark in words:
        parts = [piece for part in parts for piece in _cut(part, mark)]
    return ''.join(words.get(part, part) for part in parts)


def _cut(text: str, mark: str) -> list[str]:
    pieces = [text] if text == mark else text.replace(mark, f'\0{mark}\0').split('\0')
    return [piece for piece in pieces if piece]


def _words(function: Mapping[str, Any]) -> dict[str, str]:
    """What can be said of a tool."""
    schema = {'type': 'function', 'function': function}
    return {
        '{{NAME}}': str(function.get('name')),
        '{{DESCRIPTION}}': str(function.get('description') or ''),
        '{{PARAMETERS}}': calls.as_json(function.get('parameters') or {}),
        '{{JSON}}': calls.as_json(schema),
        '{{FUNCTION}}': calls.as_json(function),
        '{{PRETTY}}': json.dumps(schema, ensure_ascii=False, indent=4),
        '{{XML}}': _xml(function),
    }


def _xml(function: Mapping[str, Any]) -> str:
    """A tool in tags, as Qwen3-Coder has it."""
    lines = ['<function>', f'<name>{function.get("name")}</name>']
    if function.get('description'):
        lines.append(f'<description>{str(function["description"]).strip()}</description>')
    parameters = function.get('parameters') or {}
    lines.append('<parameters>')
    for name, schema in (parameters.get('properties') or {}).items():
        lines += ['<parameter>', f'<name>{name}</name>']
        if 'type' in schema:
            lines.append(f'<type>{schema["type"]}</type>')
        if 'description' in schema:
            lines.append(f'<description>{str(schema["description"]).strip()}</description>')
        lines += _others(schema, ('name', 'type', 'description'))
        lines.append('</parameter>')
    lines += _others(parameters, ('type', 'properties'))
    lines.append('</parameters>')
    lines += _others(function, ('type', 'name', 'description', 'parameters'))
    return '\n'.join([*lines, '</function>'])


def _others(schema: Mapping[str, Any], said: Sequence[str]) -> list[str]:
    return [f'<{key}>{calls.as_json(value)}</{key}>' for key, value in schema.items() if key not in said]
