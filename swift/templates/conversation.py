"""A row's messages as the dicts that one chat template understands.

Everything in them that comes from the row goes through a ``Put`` (see ``trace.py``), so the same code writes the row
as it is and as codes. Strings that templates compare or look up (names of tools, schemas, ids) are coded only where
they hold a control string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.core.types import PICTURE, Message, ToolCall
from swift.templates import thinking, tools
from swift.templates.jinja import Source
from swift.templates.trace import Kind, Put


@dataclass(frozen=True, slots=True)
class Style:
    """What a template understands.

    ``parts``: content is a list of ``{'type': 'text', 'text': ...}``; ``objects``: arguments of calls are objects, not
    JSON text; ``reasoning``: fields in which it looks for reasoning; ``blocks``: reasoning is a part of the content;
    ``moves``: reasoning inside the content must be moved there to be understood; ``ids``: it shows or compares the
    ids of calls; ``named``: it shows no name of a tool but in the id (``functions.name:0``, as with Kimi); ``given``:
    the ids that rows bring will do (Mistral's templates want nine letters and digits).
    """

    parts: bool = False
    objects: bool = True
    reasoning: frozenset[str] = frozenset()
    blocks: bool = False
    moves: bool = False
    ids: bool = False
    named: bool = False
    given: bool = True

    @property
    def inline(self) -> bool:
        """True if reasoning goes into the content, for want of another place."""
        return not self.reasoning and not self.blocks

    @classmethod
    def of(cls, source: Source) -> Style:
        """What can be read from the source; the rest is found by trying."""
        return cls(
            reasoning=thinking.fields(source),
            blocks=thinking.in_blocks(source),
            ids=tools.reads_ids(source),
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, tools and variables of one row. ``suspicious`` tells strings that hold a control string."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    suspicious: Callable[[str], bool] = lambda text: False

    @property
    def calls(self) -> bool:
        """True if a message calls a tool."""
        return any(message.tool_calls for message in self.messages)

    def write(self, style: Style, put: Put) -> dict[str, Any]:
        """Arguments for a Renderer."""
        careful = lambda text: put(text, -1, 'other') if self.suspicious(text) else text
        ids = tools.call_ids(self.messages, invent=style.ids, named=style.named, given=style.given)
        return {
            'messages': [
                self._message(message, index, ids[index], style, put) for index, message in enumerate(self.messages)
            ],
            'tools': [tools.strings(tool, careful, careful) for tool in tools.schemas(self.tools)] or None,
            'variables': tools.strings(self.variables, careful, str),
        }

    def _message(
        self, message: Message, index: int, ids: Sequence[str | None], style: Style, put: Put
    ) -> dict[str, Any]:
        say: Callable[[str, Kind], str] = lambda text, kind: put(text, index, kind)
        careful = lambda text: say(text, 'other') if self.suspicious(text) else text
        content, reasoning = thinking.placed(message, apart=not style.inline, moves=style.moves)
        shown: Any = _in_parts(content, message.pictures, say) if message.pictures else say(content, 'content')
        reasoning = None if reasoning is None else say(reasoning, 'reasoning')
        told: dict[str, Any] = {'role': message.role, 'content': shown}
        if style.blocks and reasoning:
            told['content'] = [{'type': 'thinking', 'thinking': reasoning}, {'type': 'text', 'text': shown}]
        elif style.parts and not message.pictures:
            told['content'] = [{'type': 'text', 'text': shown}]
        if reasoning is not None and not style.blocks:
            told |= dict.fromkeys(('reasoning_content', 'thinking', *sorted(style.reasoning)), reasoning)
        if message.tool_calls:
            told['tool_calls'] = [
                self._call(call, id, style, say, careful) for call, id in zip(message.tool_calls, ids, strict=True)
            ]
        if message.role == 'tool' and ids[0]:
            told['tool_call_id'] = careful(ids[0])
        if message.name:
            told['name'] = careful(message.name)
        return told

    def _call(
        self,
        call: ToolCall,
        id: str | None,
        style: Style,
        say: Callable[[str, Kind], str],
        careful: Callable[[str], str],
    ) -> dict[str, Any]:
        arguments = tools.arguments(call, lambda text: say(text, 'call'), careful, objects=style.objects)
        told = {'type': 'function', 'function': {'name': say(call.name, 'name'), 'arguments': arguments}}
        return {'id': careful(id), **told} if id else told


def _in_parts(content: str, pictures: Sequence[int], say: Callable[[str, Kind], str]) -> list[dict[str, str]]:
    """Content as a list: what is said, and a part for each picture in its place."""
    parts, at = [], 0
    for place in (*pictures, len(content)):
        if place > at:
            parts.append({'type': 'text', 'text': say(content[at:place], 'content')})
        if place < len(content):
            parts.append({'type': 'image'})
        at = place + len(PICTURE)
    return parts
