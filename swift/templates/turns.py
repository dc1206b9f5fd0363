"""Which characters of a proven rendering an assistant turn is trained on.

A turn is the answer and the first stop token after it.

- The answer begins with the first character that the row says. If that is reasoning or a tool call, what the template
  writes around it belongs to it as well (``<think>``, ``<tool_call>{"name": "``), from the end of the generation
  prompt on; headers, and thinking that the template opens and closes by itself, never do.
- It ends with the last character that the row says. What the template writes between there and the stop token belongs
  to it: what closes the answer (``}</tool_call>``), and blanks, without which a model would not come to the stop.
- A stop token is the tokenizer's eos, one that generation_config.json names, or the control token by which this
  template ends a turn, learnt from a short conversation: the first one after an answer if it follows at once (GLM's
  ``<|user|>``) or if it also stands after the last answer. If these strings are no tokens of this tokenizer, the text
  by which the template ends every turn is trained instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from swift.core.errors import RowError
from swift.core.types import Message
from swift.templates import thinking
from swift.templates.conversation import Conversation, Style
from swift.templates.jinja import Renderer
from swift.templates.tokens import Control, Tokenizer, Tokens
from swift.templates.trace import LAST_CODE, Piece, Trace, Tracer, common, gap_after_data

PROBE = (
    Message('user', 'Which one is it?'),
    Message('assistant', 'The first one.'),
    Message('user', 'And after that?'),
    Message('assistant', 'Nothing more.'),
)
_TAG = re.compile(r'\s*(<[^<>\s]+>|\[[^\[\]\s]+\])')
_ANSWER = chr(LAST_CODE)  # stands for an answer where only its header matters


@dataclass(frozen=True, slots=True)
class Turn:
    """Characters ``start`` to ``end`` are trained, and those of ``stop``. ``stop`` None: nothing ends this turn."""

    message: int
    start: int
    end: int
    stop: tuple[int, int] | None = None

    def parts(self, blocks: Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
        """The characters of the answer that are trained: all, or those in ``{% generation %}`` blocks."""
        if blocks is None:
            return [(self.start, self.end)]
        parts = [(max(a, self.start), min(b, self.end)) for a, b in blocks]
        return [(a, b) for a, b in parts if a < b or a == b == self.start == self.end]


@dataclass(frozen=True, slots=True)
class Endings:
    """How a template ends an answer: by one of the tokens ``stops``, else by one of ``texts`` (or by nothing).

    ``between`` is what it says between an answer and the next question; None if it refused to show that.
    """

    stops: frozenset[int]
    texts: tuple[str, ...] = ()
    between: str | None = None


class Turns:
    """Finds the turns of one template's conversations.

    Args:
        known: stop tokens by the tokenizer and generation_config.json.
    """

    def __init__(self, tracer: Tracer, style: Style, tokenizer: Tokenizer, known: frozenset[int]):
        self.renderer: Renderer = tracer.renderer
        self.endings = learn_endings(tracer, style, tokenizer, known)
        self._tokenizer, self._parts, self._words = tokenizer, style.parts, sorted(tracer.words)
        self._headers: dict[Any, str | None] = {}
        self._handovers: dict[bool, int | None] = {}

    def __call__(self, trace: Trace, tokens: Tokens, messages: Sequence[Message]) -> list[Turn]:
        """The assistant turns of a traced conversation, in order.

        Raises:
            RowError: the template shows an answer twice, mixed with other messages, or not at all.
        """
        turns = []
        for index, message in enumerate(messages):
            if message.role == 'assistant':
                turn = self._turn(trace, tokens, messages, index)
                if turn:
                    turns.append(turn)
        for before, after in pairwise(turns):
            if after.start < (before.stop[1] if before.stop else before.end):
                raise RowError(f'the chat template mixes messages {before.message + 1} and {after.message + 1}')
        return turns

    def _turn(self, trace: Trace, tokens: Tokens, messages: Sequence[Message], index: int) -> Turn | None:
        own = trace.of(index)
        _check(trace, own, messages[index], index)
        start = self._start(trace, messages, index, own)
        if start is None:
            return None
        end = own[-1].end if own else start
        following = [p.start for p in trace.pieces if p.start >= end and p.field and p.field.kind != 'other']
        limit = following[0] if following else len(trace.text)
        called = bool(own) and own[-1].field.kind in ('call', 'name')
        rest = own[-1].field.coded[own[-1].last :] if own else ''
        stop = self._stop(trace, tokens, end, limit, called=called, rest=rest)
        if not own:
            return Turn(index, stop[0], stop[0], stop) if stop else None
        if stop:
            end += len(trace.text[end : stop[0]].rstrip())
        elif called:
            end, stop = self._end_of_call(trace, tokens, index, end, limit)
        return Turn(index, start, end, stop)

    def _end_of_call(
        self, trace: Trace, tokens: Tokens, index: int, end: int, limit: int
    ) -> tuple[int, tuple[int, int] | None]:
        """Where a tool call ends that no known stop token ends, and the token that does.

        It is a special token with which the call itself closes (``<|call|>``), or the one that follows at once.
        """
        end += self._rest_of_call(trace, index, trace.text[end:limit])
        for control in tokens.controls:
            closes = control.end == end and self._tokenizer.special(control.id)
            if closes or (control.start == end and control.end <= limit):
                return min(end, control.start), (control.start, control.end)
        return end, None

    def _rest_of_call(self, trace: Trace, index: int, written: str) -> int:
        """How much of ``written``, said after the last string of a call, still belongs to it: numbers, brackets, tags.

        It is what the template says there if the conversation ends with the call.
        """
        coded = trace.coded()
        arguments = {**coded, 'messages': coded['messages'][: index + 1]}
        try:
            alone = gap_after_data(self.renderer(**arguments, coded=True))
        except RowError:
            return 0
        return len(written[: common(alone, written)].rstrip())

    def _stop(
        self, trace: Trace, tokens: Tokens, end: int, limit: int, *, called: bool, rest: str
    ) -> tuple[int, int] | None:
        """The characters that end an answer, which itself ends at ``end``; before ``limit``, where a message begins.

        ``called``: the answer ends with a tool call. ``rest``: what of its last field no piece shows.
        """
        after = [control for control in tokens.controls if control.start >= end and control.end <= limit]
        for control in after:
            if control.id in self.endings.stops:
                fits = called or self._closes(trace.text[end : control.start], rest)
                return (control.start, control.end) if fits else None
        start = end + len(trace.text[end:limit]) - len(trace.text[end:limit].lstrip())
        for ending in self.endings.texts:
            if trace.text.startswith(ending, start):
                return start, start + len(ending)
        return None

    def _closes(self, glue: str, rest: str) -> bool:
        """True if ``glue`` may stand between an answer and its stop token: control tokens, what always stands there
        (``</answer>``), and words that the row says there too. Others mean that the stop token is not this answer's."""
        if self.endings.between is None or glue.strip() in self.endings.between:
            return True
        return not self._tokenizer.without_controls(glue).strip() or all(word in rest for word in glue.split())

    def handover(self, trace: Trace, turn: Turn) -> int | None:
        """The control token that would follow at once if the conversation went on after ``turn``, its last one.

        GLM and its kin end no answer by themselves: the next role's token does, and is what the model learns to say.
        """
        called = trace.of(turn.message)[-1].field.kind in ('call', 'name')
        if called not in self._handovers:
            coded = trace.coded()
            said = self._message('tool' if called else 'user')
            arguments = {**coded, 'messages': [*coded['messages'], said]}
            self._handovers[called] = self._following(arguments, trace.text[trace.pieces[-1].end :])
        return self._handovers[called]

    def _message(self, role: str) -> dict[str, Any]:
        """A message that says ``_ANSWER``."""
        return {'role': role, 'content': [{'type': 'text', 'text': _ANSWER}] if self._parts else _ANSWER}

    def _following(self, arguments: dict[str, Any], glue: str) -> int | None:
        try:
            coded = self.renderer(**arguments, coded=True)
        except RowError:
            return None
        written = gap_after_data(coded.partition(_ANSWER)[0])
        if _ANSWER not in coded or not written.startswith(glue):
            return None
        controls = self._tokenizer(written).controls
        return next((control.id for control in controls if control.start == len(glue)), None)

    # ------------------------------------------------------------------------------------------------------ headers
    def _start(self, trace: Trace, messages: Sequence[Message], index: int, own: Sequence[Piece]) -> int | None:
        """Where a turn begins; None if it shows nothing of the row and nothing tells where its header ends."""
        first = trace.pieces.index(own[0]) if own else self._first_after(trace, index)
        begin = trace.pieces[first - 1].end if first else 0
        end = trace.pieces[first].start if first < len(trace.pieces) else len(trace.text)
        if not own and any(p.field is None for p in trace.pieces[:first]):
            raise RowError(f'cannot prove where the empty answer {index + 1} stands: a message before it is blank')
        if own:
            end += own[0].lead  # may be the template's as well as the row's
            if own[0].field.kind == 'content' and not thinking.opens(trace.text[begin:end]):
                return own[0].start
        written = trace.text[begin:end]
        size = self._header_size(trace, messages, index, written)
        if size is None:
            return own[0].start if own else None
        return begin + size + (thinking.after_empty_thinking(written[size:]) if own else 0)

    def _first_after(self, trace: Trace, index: int) -> int:
        """The number of the first piece after those of the messages before ``index``."""
        before = [n for n, p in enumerate(trace.pieces) if p.field and 0 <= p.field.message < index]
        return before[-1] + 1 if before else 0

    def _header_size(self, trace: Trace, messages: Sequence[Message], index: int, written: str) -> int | None:
        """How much of ``written``, said before turn ``index``, is its header."""
        prompt = self._header(trace, messages, index, 'prompt')
        if prompt is not None:
            for header in (prompt, thinking.without_opening(prompt)):
                if header and written.startswith(header):
                    return len(header)
        answer = self._header(trace, messages, index, 'answer')
        if answer:
            return common(answer, written) or None
        return None

    def _header(self, trace: Trace, messages: Sequence[Message], index: int, kind: str) -> str | None:
        """What the template says between the messages before ``index`` and an answer to them.

        ``prompt``: by its generation prompt, None if it has none. ``answer``: by rendering a plain answer. Both depend
        on the messages' shapes, not on their words, and are remembered by shape; ``written.startswith`` checks them.
        """
        coded = trace.coded()
        shapes = (_shape(message, self._words) for message in messages[:index])
        key = (kind, *shapes, repr(coded['variables']), bool(coded['tools']))
        if key not in self._headers:
            self._headers[key] = self._rendered_header({**coded, 'messages': coded['messages'][:index]}, kind)
        return self._headers[key]

    def _rendered_header(self, arguments: dict[str, Any], kind: str) -> str | None:
        try:
            if kind == 'prompt':
                prompted, plain = (self.renderer(**arguments, prompt=prompt, coded=True) for prompt in (True, False))
                return gap_after_data(prompted) if prompted != plain else None
            messages = [*arguments['messages'], self._message('assistant')]
            coded = self.renderer(**{**arguments, 'messages': messages}, coded=True)
            return gap_after_data(coded.partition(_ANSWER)[0]) if _ANSWER in coded else None
        except RowError:
            return None


def _shape(message: Message, words: Iterable[str]) -> tuple:
    """What a template can tell of a message: whether it says something, and which of the words it looks for."""
    kinds = (bool(message.content), message.reasoning is not None, len(message.tool_calls))
    return (message.role, *kinds, *(word for word in words if word in message.content))


def _check(trace: Trace, own: Sequence[Piece], message: Message, index: int) -> None:
    """An answer is shown once, in one place."""
    seen: dict[int, int] = {}
    for piece in sorted(own, key=lambda piece: (piece.field.base, piece.first)):
        if piece.first < seen.get(piece.field.base, 0):
            raise RowError(f'the chat template shows message {index + 1} twice: which of them is the answer?')
        seen[piece.field.base] = piece.last
    if own:
        _check_edges(trace, own, index)
        inside = (p for p in trace.pieces if p.field and own[0].start < p.start < own[-1].end)
        for other in (p.field.message for p in inside if p.field.kind != 'other' and p.field.message != index):
            raise RowError(f'the chat template puts message {other + 1} into the middle of answer {index + 1}')
    elif thinking.says_something(message):
        raise RowError(f'the chat template does not show message {index + 1} at all; there is nothing to train')


def _check_edges(trace: Trace, own: Sequence[Piece], index: int) -> None:
    """No word beside an answer might be the row's as well as the template's (tags of thinking apart)."""
    first, last = own[0], own[-1]
    before, after = first.field.coded[: first.first].split()[-1:], last.field.coded[last.last :].split()[:1]
    doubtful = [word for word in before if trace.text[: first.start].rstrip().endswith(word)]
    doubtful += [word for word in after if trace.text[last.end :].lstrip().startswith(word)]
    for word in doubtful:
        if not thinking.is_tag(word):
            raise RowError(f'cannot prove whether answer {index + 1} or the chat template says {word!r} at its edge')


# -------------------------------------------------------------------------------------------------------- endings
def learn_endings(tracer: Tracer, style: Style, tokenizer: Tokenizer, known: frozenset[int]) -> Endings:
    """How the template ends answers, from a conversation of two rounds; from nothing but ``known`` if it refuses."""
    conversation = Conversation(PROBE)
    write = lambda put: conversation.write(style, put)
    try:
        trace = tracer(write, tracer.renderer(**write(lambda text, message, kind: text)))
        first, second, last = trace.of(1), trace.of(2), trace.of(3)
    except RowError:
        return Endings(known)
    if not (first and second and last) or second[0].start < first[-1].end:
        return Endings(known)
    between = trace.text[first[-1].end : second[0].start]
    header = trace.text[second[-1].end : last[0].start]
    tail = trace.text[last[-1].end :]
    stops = _learnt_stops(*(tokenizer(words).controls for words in (between, tail, header)), known)
    texts = () if stops else _end_texts(between, tail)
    return Endings(known | stops, texts, between)


def _learnt_stops(
    between: Sequence[Control], tail: Sequence[Control], header: Sequence[Control], known: frozenset[int]
) -> frozenset[int]:
    """Control tokens that end an answer, from those between two rounds, after the last answer and before an answer."""
    stops = {control.id for control in between if control.id in known}
    if between and not stops and (between[0].start == 0 or between[0].id in {control.id for control in tail}):
        stops.add(between[0].id)
    unknown = tail and tail[0].start == 0 and not {control.id for control in tail} & known
    if unknown and tail[0].id not in {control.id for control in header}:
        stops.add(tail[0].id)  # gpt-oss ends the last answer with a token of its own
    return frozenset(stops)


def _end_texts(between: str, tail: str) -> tuple[str, ...]:
    """Texts that end an answer where no token does: the first word that always does, or else a tag for each place."""
    shared = between[: common(between, tail)]
    words = shared.split()
    if words and (len(shared) == len(tail) or len(words) > 1 or shared[-1].isspace()):
        return (words[0],)
    tags = [found.group(1) for found in map(_TAG.match, (between, tail)) if found]
    return tuple(dict.fromkeys(tags)) if len(tags) == 2 else ()
