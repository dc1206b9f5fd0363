"""Tools and tool calls in the form that templates expect: the one that OpenAI's API made common.

The formats themselves (hermes, llama, mistral ...) are the templates' business. A template that cannot show tools, or
shows a call but loses its arguments, is found out by what it renders (see ``chat.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swift.core.types import Message, ToolCall
from swift.templates.jinja import Source

_READS_IDS = re.compile(r'\btool_call_id\b|\[[\'"]id[\'"]\]|\.id\b')


def reads_ids(source: Source) -> bool:
    """True if the template shows or compares the ids of calls."""
    return bool(_READS_IDS.search(source.text))


def schemas(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool schemas, each as ``{'type': 'function', 'function': {...}}``."""
    return [
        dict(tool) if 'function' in tool or 'name' not in tool else {'type': 'function', 'function': dict(tool)}
        for tool in tools
    ]


def strings(value: Any, put: Callable[[str], str], put_key: Callable[[str], str]) -> Any:
    """A JSON value with its strings passed through ``put``, and the keys of its objects through ``put_key``."""
    if isinstance(value, str):
        return put(value)
    if isinstance(value, Mapping):
        return {put_key(str(key)): strings(item, put, put_key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strings(item, put, put_key) for item in value]
    return value


def call_ids(messages: Sequence[Message], *, invent: bool, named: bool, given: bool) -> list[list[str | None]]:
    """The ids of each message's calls, and for a tool message the id of the call it answers.

    Missing ids are invented for templates that need them: nine characters long as Mistral's templates want, or
    ``functions.name:0`` if ``named``. So are those of the row if the template cannot use them: all of them without
    ``given``, and those that do not hold the tool's name if ``named``. Tool messages answer calls in the order in which
    they were made.
    """
    ids: list[list[str | None]] = []
    waiting: list[str | None] = []
    count = 0
    for message in messages:
        if message.role == 'tool':
            ids.append([waiting.pop(0) if waiting else None])
            continue
        own: list[str | None] = []
        for call in message.tool_calls:
            invented = f'functions.{call.name}:{count}' if named else f'call{count:05d}'
            usable = given and call.id and not (named and call.name not in call.id)
            own.append(call.id if usable else invented if invent else None)
            count += 1
        if own:
            waiting = list(own)
        ids.append(own)
    return ids


def arguments(call: ToolCall, put: Callable[[str], str], put_key: Callable[[str], str], *, objects: bool) -> Any:
    """The arguments of a call: as an object if ``objects``, else as JSON text."""
    if objects and not isinstance(call.arguments, str):
        return strings(call.arguments, put, put_key)
    text = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
    return put(text)
