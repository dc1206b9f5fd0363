"""The shortcut for plain conversations: the second rendering of ``trace.py`` once per shape instead of once per row.

Of a plain conversation (system, questions and answers as text, and none of the words that the template looks for) a
template can only tell the roles, and the blanks at the edges of messages, which it may trim. So what it writes between
the messages is learnt from one traced row of a shape; blanks at edges belong to the shape. A later row of this shape
must be exactly these words with its own messages between them; if it is not, it is traced like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swift.templates.conversation import Conversation, Style
from swift.templates.trace import STAND_IN, Coder, Field, Piece, Rung, Trace, Tracer

MOST = 4096  # shapes that are remembered: rows with variables or blanks of their own may be of endlessly many


@dataclass(frozen=True, slots=True)
class Outline:
    """``words[0]``, message ``order[0]``, ``words[1]``, ... ``words[-1]``.

    ``cuts`` are the blanks that are missing at both edges of each of these messages. ``blocks`` are generation blocks,
    each edge as (number of the words, characters into them).
    """

    words: tuple[str, ...]
    order: tuple[int, ...]
    cuts: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[tuple[int, int], tuple[int, int]], ...] | None

    def contents(self, conversation: Conversation) -> list[str]:
        """What is shown of its messages, in this order."""
        messages = conversation.messages
        return [
            messages[number].content[first : len(messages[number].content) - after]
            for number, (first, after) in zip(self.order, self.cuts, strict=True)
        ]

    def fits(self, contents: Sequence[str], text: str) -> bool:
        """Whether ``text`` is these words with ``contents`` between them, to the last character."""
        return text == ''.join(part for pair in zip(self.words, (*contents, ''), strict=True) for part in pair)


class Outlines:
    """The outlines of one template."""

    def __init__(self, tracer: Tracer):
        self._tracer = tracer
        self._known: dict[Any, Outline | None] = {}

    def __call__(self, conversation: Conversation, style: Style, text: str) -> Trace | None:
        """The trace of ``text``, if the outline of its shape is known and fits to the last character."""
        outline = self.of(self.shape(conversation, style))
        if outline is None or not outline.fits(contents := outline.contents(conversation), text):
            return None
        pieces, starts, at = [], [], 0
        shown = zip(outline.words, outline.order, outline.cuts, contents, strict=False)
        for words, number, (first, _), content in shown:
            starts.append(at)
            at += len(words)
            size, whole = len(content), conversation.messages[number].content
            pieces.append(Piece(at, at + size, Field(number, 'content', whole, '', number), first, first + size))
            at += size
        starts.append(at)
        blocks = outline.blocks
        if blocks is not None:
            blocks = tuple((starts[i] + a, starts[j] + b) for (i, a), (j, b) in blocks)
        return Trace(text, tuple(pieces), blocks, lambda: conversation.write(style, Coder(Rung())))

    def learn(self, conversation: Conversation, style: Style, trace: Trace) -> None:
        """Remember the outline of a traced conversation, or that its shape has none."""
        shape = self.shape(conversation, style)
        if shape is not None and shape not in self._known and len(self._known) < MOST:
            self._known[shape] = _outline(trace)

    def of(self, shape: Any) -> Outline | None:
        """The outline of a shape, if it is known and has one."""
        return self._known.get(shape)

    def shape(self, conversation: Conversation, style: Style) -> Any:
        """What a template can tell of a plain conversation; None for one that is not plain."""
        messages, edges = conversation.messages, []
        for number, message in enumerate(messages):
            content = message.content
            if not content or content.isspace() or message.role == 'tool':
                return None
            if content[0].isspace() or content[-1].isspace():
                core = content.strip()
                edges.append((number, *content.split(core, 1)))
            if message.reasoning is not None or message.tool_calls or message.name:
                return None
        if conversation.tools:
            return None
        everything = '\0'.join(message.content for message in messages)
        if STAND_IN.search(everything) or any(word in everything for word in self._tracer.words):
            return None
        return style, repr(conversation.variables), tuple(message.role for message in messages), tuple(edges)


def _outline(trace: Trace) -> Outline | None:
    """The outline of a trace that shows every message at most once, whole but for blanks at its edges."""
    words, order, cuts, starts, at = [], [], [], [], 0
    for piece in trace.pieces:
        field = piece.field
        if field is None or field.kind != 'content' or piece.lead or piece.tail:
            return None
        if (field.text[: piece.first] + field.text[piece.last :]).strip():
            return None
        words.append(trace.text[at : piece.start])
        starts.append(at)
        order.append(field.message)
        cuts.append((piece.first, len(field.text) - piece.last))
        at = piece.end
    words.append(trace.text[at:])
    starts.append(at)
    if len(set(order)) < len(order):
        return None
    blocks = trace.blocks
    if blocks is not None:
        edges = [tuple(place(edge, starts, words) for edge in block) for block in blocks]
        if any(None in block for block in edges):
            return None
        blocks = tuple(edges)
    return Outline(tuple(words), tuple(order), tuple(cuts), blocks)


def place(edge: int, starts: Sequence[int], words: Sequence[str]) -> tuple[int, int] | None:
    """A place in the text as (number of the words, characters into them); None inside a message."""
    for number, (start, said) in enumerate(zip(starts, words, strict=True)):
        if start <= edge <= start + len(said):
            return number, edge - start
    return None
