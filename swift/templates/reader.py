"""One chat template's source with all that is learnt about it before the first row.

What is learnt comes from short conversations of our own, never from rows, so that a row becomes the same tokens in
whatever order the rows come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import product
from typing import Any, NamedTuple

from swift.core.errors import RowError
from swift.core.types import Message, ToolCall
from swift.templates.conversation import Conversation, Style
from swift.templates.jinja import Renderer, Source
from swift.templates.layout import Layout, lay_out
from swift.templates.outline import Outlines
from swift.templates.tokens import Tokenizer, Tokens
from swift.templates.trace import Trace, Tracer
from swift.templates.turns import PROBE, Turn, Turns

THINKING = (*PROBE[:3], Message('assistant', '<think>\nLet me see.\n</think>\n\nNothing more.'))
CALLING = (PROBE[0], Message('assistant', '', tool_calls=(ToolCall('look_up', {'word': 'first "one"'}),)))
TOOL = {
    'type': 'function',
    'function': {
        'name': 'look_up',
        'description': 'Look a word up.',
        'parameters': {
            'type': 'object',
            'properties': {'word': {'type': 'string', 'description': 'The word.'}},
            'required': ['word'],
        },
    },
}
_plainly = lambda text, message, kind: text


class Known(NamedTuple):
    """A row of a known shape: its text, and what its messages say in the order in which they are shown."""

    layout: Layout
    text: str
    contents: list[str]


class Reader:
    """One chat template's source with all that is learnt about it."""

    def __init__(
        self, source: Source, tokenizer: Any, known: frozenset[int], variables: Mapping[str, Any], *, now: datetime
    ):
        self.source, self.variables = source, variables
        self.renderer = Renderer(source, tokenizer.special_tokens_map, now=now)
        self.tracer = Tracer(self.renderer)
        self.tokenizer = Tokenizer(tokenizer, source.written)
        self.outlines = Outlines(self.tracer)
        self._layouts: dict[Any, Layout] = {}
        self.style = self._style()
        self.turns = Turns(self.tracer, self.style, self.tokenizer, known)

    def _style(self) -> Style:
        """What the template understands, by trying: content as text or in parts, reasoning left in the content or moved
        out of it, arguments of calls as objects or as text, names of tools in their place or in ids."""
        style = Style.of(self.source)
        if not self._shown(PROBE, style):
            parts = replace(style, parts=True)
            style = parts if self._shown(PROBE, parts) else style
        cuts = any('</think>' in word for word in self.source.tests)
        if cuts:
            write = lambda put: Conversation(THINKING, variables=self.variables).write(style, put)
            with suppress(RowError):
                self.tracer.begin_like(write, self.renderer(**write(_plainly)))
        elif not style.inline:
            moved = replace(style, moves=True)
            style = moved if 'reasoning' in self._shown(THINKING, moved) else style
        return next((each for each in self._with_calls(style) if 'call' in self._shown(CALLING, each)), style)

    def _shown(self, messages: Sequence[Message], style: Style) -> set[str]:
        """Kinds of text that the template shows of the last message."""
        tools = [TOOL] if self.source.shows_tools and any(message.tool_calls for message in messages) else []
        conversation = Conversation(messages, tools, self.variables)
        try:
            return {piece.field.kind for piece in self._read(conversation, style).of(len(messages) - 1)}
        except RowError:
            return set()

    def render(self, conversation: Conversation, *, prompt: bool = False) -> str:
        """The conversation as the checkpoint renders it.

        Raises:
            RowError: the template refuses it, fails on it, or does not show a tool.
        """
        return self._render(conversation, self.style, prompt=prompt)

    def _render(self, conversation: Conversation, style: Style, *, prompt: bool = False) -> str:
        text = self.renderer(**conversation.write(style, _plainly), prompt=prompt)
        for tool in conversation.tools:
            name = tool.get('function', tool).get('name')
            if name and name not in text:
                raise RowError(f'the chat template does not show the tool {name!r}; the model would not know of it')
        return text

    def read(self, conversation: Conversation, *, prompt: bool = False) -> Trace:
        """Who says what in the rendering of the conversation.

        Raises:
            RowError: as ``render``, or the origin of the text cannot be proven, or a tool call gets lost.
        """
        problem: RowError | None = None
        for style in self._with_calls(self.style) if conversation.calls else (self.style,):
            try:
                return self._read(conversation, style, prompt=prompt)
            except RowError as error:
                problem = problem or error
        raise problem

    def _read(self, conversation: Conversation, style: Style, *, prompt: bool = False) -> Trace:
        text = self._render(conversation, style, prompt=prompt)
        write = lambda put: conversation.write(style, put)
        trace = self.outlines(conversation, style, text) if not prompt else None
        if trace is None:
            trace = self.tracer(write, text, prompt=prompt)
            _check_calls(trace, conversation)
            if not prompt:
                self.outlines.learn(conversation, style, trace)
        return trace

    def known(self, conversation: Conversation) -> Known | None:
        """The rendering of a conversation of a shape whose layout is known and fits.

        Raises:
            RowError: as ``render``.
        """
        layout = self._layouts.get(self.outlines.shape(conversation, self.style)) if self._layouts else None
        if layout is None:
            return None
        text, contents = self.render(conversation), layout.outline.contents(conversation)
        return Known(layout, text, contents) if layout.outline.fits(contents, text) else None

    def remember(
        self, conversation: Conversation, trace: Trace, tokens: Tokens, turns: Sequence[Turn], *, by_blocks: bool
    ) -> None:
        """Keep the layout of a row that was read, for others of its shape; arguments as for ``lay_out``."""
        shape = self.outlines.shape(conversation, self.style)
        outline = self.outlines.of(shape)
        if outline is None or shape in self._layouts or not self.tokenizer.spells:
            return
        if outline.fits(outline.contents(conversation), trace.text):
            added = self.tokenizer.added(tokens.ids).tolist()
            layout = lay_out(outline, trace, tokens, added, turns, by_blocks=by_blocks)
            if layout is not None:
                self._layouts[shape] = layout

    def suspects(self, conversation: Conversation) -> bool:
        """True if only a trace can tell how the conversation is to be tokenised: it has control strings or calls."""
        strings: list[str] = []
        conversation.write(self.style, lambda text, message, kind: strings.append(text) or text)
        return conversation.calls or any(map(self.tokenizer.suspicious, strings))

    def _with_calls(self, style: Style) -> Iterator[Style]:
        """Ways to write tool calls, ``style`` first."""
        yield style
        for objects, named, given in product((True, False), (False, True), (True, False)):
            other = replace(style, objects=objects, named=named, given=given, ids=style.ids or named or not given)
            if other != style:
                yield other


def _check_calls(trace: Trace, conversation: Conversation) -> None:
    """Refuse a rendering in which a call lost its name, or has arguments that are no JSON.

    Raises:
        RowError: naming the call.
    """
    for index, message in enumerate(conversation.messages):
        shown = {p.field.text for p in trace.pieces if p.field and p.field.message == index and p.field.kind == 'name'}
        for call in message.tool_calls:
            in_id = call.id and call.name in call.id and call.id in trace.text
            if call.name not in shown and not in_id and f'functions.{call.name}:' not in trace.text:
                raise RowError(f'the chat template does not show the call of {call.name!r}; there is nothing to train')
            if isinstance(call.arguments, Mapping) and call.arguments and repr(call.arguments) in trace.text:
                raise RowError(f"the chat template shows the arguments of {call.name!r} as Python's, not as JSON")
