"""What a model says, as its API tells it: content, reasoning and tool calls, found while the answer streams.

    text --Parser.push--> Delta, Delta ...        text --whole--> Answer

How a checkpoint marks reasoning and calls is read off its chat template (``Speech``), or named by a flag.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from swift.templates import harmony, thinking, thinking_reading
from swift.templates.calls import Format, by_name
from swift.templates.calls_reading import CallReader
from swift.templates.feed import Feed, Reading, run
from swift.templates.thinking_reading import Stripped

TAIL = 64  # tokens of a prompt, among which a tag that opens the reasoning would be


@dataclass(frozen=True)
class Speech:
    """How a model marks what it says: its format of calls, and the tags of its reasoning."""

    calls: Format | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Strings that are told apart by their tokens, so that answers must show them."""
        calls = self.calls
        own: tuple[str, ...] = ()
        if calls is not None:
            channels = harmony.MARKS if calls.body in ('harmony', 'atem') else ()
            own = (calls.open, calls.name_end, calls.close, *calls.section, *calls.key, *calls.wrappers, *channels)
        return (*own, *(tag for tags in self.tags for tag in tags))

    def named(self, calls: str | None) -> Speech:
        """The same with another format of calls, by name. Raises ConfigError."""
        return self if calls is None else Speech(by_name(calls), self.tags)


@dataclass(frozen=True)
class Delta:
    """More of an answer.

    ``kind`` 'call': the first delta of call ``index`` has its ``id`` and ``name``, the others more of the JSON text of
    its arguments.
    """

    kind: Literal['content', 'reasoning', 'call']
    text: str
    index: int = 0
    id: str | None = None
    name: str | None = None


@dataclass
class Call:
    """A whole call; ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str = ''


@dataclass
class Answer:
    """A whole answer."""

    content: str = ''
    reasoning: str = ''
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, deltas: Iterable[Delta]) -> Answer:
        """What deltas add up to."""
        made = cls()
        for delta in deltas:
            if delta.kind == 'content':
                made.content += delta.text
            elif delta.kind == 'reasoning':
                made.reasoning += delta.text
            else:
                if delta.index == len(made.calls):
                    made.calls.append(Call(delta.id or '', delta.name or ''))
                made.calls[delta.index].arguments += delta.text
        return made


class Parser:
    """Reads one answer.

    Args:
        tools: Schemas of the tools that the model may call; without any nothing is taken for a call.
        opened: The tag that opened the reasoning at the end of the prompt, or ''.
        reasoning: False leaves reasoning in the content.
        new_id: Makes the ids of calls.
    """

    def __init__(
        self,
        speech: Speech,
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        opened: str = '',
        reasoning: bool = True,
        new_id: Callable[[], str] | None = None,
    ):
        self._feed, self._sink = Feed(), _Deltas(new_id or _new_id)
        self._reading = self._read(speech, tools, opened if reasoning else '', speech.tags if reasoning else ())
        self._going = True

    @property
    def called(self) -> bool:
        """True once there is a call: an answer that stops then ends with ``tool_calls``."""
        return self._sink.calls > 0

    def push(self, text: str) -> list[Delta]:
        """More of the answer."""
        self._feed.add(text)
        return self._go()

    def end(self) -> list[Delta]:
        """The answer has ended: what was held back, as it might have become something else."""
        self._feed.ended = True
        return self._go() + self._sink.flush()

    def _go(self) -> list[Delta]:
        self._going = self._going and run(self._reading)
        return self._sink.take()

    def _read(self, speech: Speech, tools: Sequence[Mapping[str, Any]], opened: str, tags: Any) -> Reading[None]:
        feed, sink = self._feed, self._sink
        if speech.calls is not None and speech.calls.body in ('harmony', 'atem'):
            calls = CallReader(speech.calls, tools) if speech.calls.body == 'atem' else None
            return (yield from harmony.read(feed, sink, Stripped(sink.reasoning), calls))
        if opened or tags:
            yield from thinking_reading.read(feed, sink.reasoning, tags, opened=opened)
            feed.drop()
        if speech.calls is not None and (tools or speech.calls.wrappers):
            yield from CallReader(speech.calls, tools).read(feed, sink)
        else:
            yield from feed.until((), sink.content)


def parser(
    template: Any,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    tool_choice: Any = 'auto',
    reasoning: bool = True,
    prompt_ids: Sequence[int] = (),
    prefix: str = '',
    calls: str | None = None,
) -> Parser:
    """The parser of one answer.

    Args:
        template: The template that made the prompt; one without ``speech`` knows neither calls nor reasoning.
        tools: Schemas that the prompt shows. With ``tool_choice`` 'none' nothing is taken for a call.
        prompt_ids: The prompt: at its end the reasoning may have been opened.
        prefix: The end of the prompt that is shown as the beginning of the answer, and pushed first.
        calls: Name of the format of calls; None takes the template's own.

    Raises:
        ConfigError: ``calls`` is no format.
    """
    speech: Speech = getattr(template, 'speech', Speech()).named(calls)
    opened = opened_by(template, prompt_ids, speech, prefix=prefix)
    return Parser(speech, () if tool_choice == 'none' else tools, opened=opened, reasoning=reasoning)


def listener(template: Any, **how: Any) -> Callable[[str], Answer]:
    """What finds reasoning and calls in whole answers; arguments as for ``parser``."""

    def hear(text: str) -> Answer:
        made = parser(template, **how)
        return Answer.of([*made.push(text), *made.end()])

    return hear


def stops(template: Any, tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Strings at which an answer with a call ends, where no token ends it."""
    calls = getattr(template, 'speech', Speech()).calls
    return calls.stop if calls and tools else ()


def opened_by(template: Any, prompt_ids: Sequence[int], speech: Speech, *, prefix: str = '') -> str:
    """The tag by which the end of a prompt opens the reasoning, or ''; arguments as for ``parser``."""
    if not speech.tags or not prompt_ids:
        return ''
    end = template.tokenizer.decode(list(prompt_ids[-TAIL:]), skip_special_tokens=False)
    return thinking.opened(end.removesuffix(prefix), speech.tags)


def whole(text: str, speech: Speech, tools: Sequence[Mapping[str, Any]] = (), **how: Any) -> Answer:
    """A whole answer; ``how`` as for ``Parser``."""
    made = Parser(speech, tools, **how)
    return Answer.of([*made.push(text), *made.end()])


class _Deltas:
    """Collects what readers find. Blanks between content and calls, and between calls, are nobody's."""

    def __init__(self, new_id: Callable[[], str]):
        self.calls = 0
        self._new_id = new_id
        self._found: list[Delta] = []
        self._blanks = ''
        self._behind = False  # nothing was said since the last call

    def content(self, text: str) -> None:
        text = text.lstrip() if self._behind else self._blanks + text
        kept = text.rstrip()
        self._blanks = text[len(kept) :]
        if kept:
            self._behind = False
            self._found.append(Delta('content', kept))

    def reasoning(self, text: str) -> None:
        self._found.append(Delta('reasoning', text))

    def call(self, name: str, id: str | None = None) -> None:
        self._blanks, self._behind = '', True
        self._found.append(Delta('call', '', self.calls, id or self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        if text:
            self._found.append(Delta('call', text, self.calls - 1))

    def take(self) -> list[Delta]:
        """What was found since the last time, deltas of one kind joined."""
        found, self._found = self._found, []
        return _joined(found)

    def flush(self) -> list[Delta]:
        """The blanks at the end of an answer without calls."""
        blanks, self._blanks = self._blanks, ''
        return [Delta('content', blanks)] if blanks and not self.calls else []


def _joined(deltas: Iterable[Delta]) -> list[Delta]:
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if last and delta.name is None and (last.kind, last.index) == (delta.kind, delta.index):
            joined[-1] = Delta(last.kind, last.text + delta.text, last.index, last.id, last.name)
        else:
            joined.append(delta)
    return joined


def _new_id() -> str:
    return f'call_{uuid.uuid4().hex[:24]}'
