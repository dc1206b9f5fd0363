"""The template of a chat model: conversations become tokens with their loss weights, and prompts.

    messages --Conversation--> dicts --Renderer--> text --Tracer--> who says what --Tokenizer--> ids --Turns--> weights

The text is the one that the checkpoint's own template renders, and the ids are those of its own tokenizer. One thing is
added: if the template lets a conversation end with the bare answer, with nothing but blanks after it, the tokenizer's
eos is put there (and the blanks are left out), so that the model learns to stop. Where the next role's token would
follow the answer at once and the checkpoint names it as a stop token (GLM's ``<|user|>``), it is put there instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from swift.core.errors import RowError
from swift.core.types import ROLES, Encoded, Eye, Message, Sample
from swift.templates import agents, ahead, sight, thinking
from swift.templates.answers import Speech
from swift.templates.args import TemplateArgs
from swift.templates.calls import by_name, of_template
from swift.templates.conversation import Conversation
from swift.templates.fingerprint import digest
from swift.templates.jinja import Source
from swift.templates.layout import Layout, Match
from swift.templates.reader import Known, Reader
from swift.templates.text import TextTemplate
from swift.templates.tokens import Said, Tokens
from swift.templates.trace import Trace
from swift.templates.truncate import Truncate
from swift.templates.turns import Turn
from swift.templates.weights import LossScale

_NUMBER = {role: number for number, role in enumerate(ROLES)}


class ChatTemplate:
    """Implements ``swift.core.types.Template`` for chat models.

    ``notes`` are sentences for the first lines of a run: flags without effect, tokens that were added. RowErrors do not
    say where the row is; who reads the rows knows.
    """

    def __init__(
        self,
        tokenizer: Any,
        choose: Callable[[bool], Source],
        args: TemplateArgs,
        *,
        known: frozenset[int],
        scale: LossScale,
        truncate: Truncate,
        now: datetime,
        eye: Eye | None = None,
    ):
        """``choose`` gives the source for rows with tools or without; ``known`` are the checkpoint's stop tokens."""
        self.tokenizer, self.args, self.scale, self.truncate = tokenizer, args, scale, truncate
        self.eye = eye
        self.notes: list[str] = []
        self.agent = agents.of(args.agent_template, of_template(choose(True).text))
        self._choose, self._known, self._now = choose, known, now
        self._readers: dict[Source, Reader] = {}
        self._text = TextTemplate(tokenizer, args, scale=scale, truncate=truncate, known=known)
        self.notes += thinking.unheard(args, choose(False))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(sorted(self._reader(tools=False).turns.endings.stops))

    @property
    def stop_text(self) -> str:
        """A text that ends the last answer where no token does, or an empty one."""
        return (self._reader(tools=False).turns.endings.texts or ('',))[-1]

    def encode(self, sample: Sample) -> list[Encoded]:
        """One Encoded; several when truncation splits, none when it leaves the row out.

        Raises:
            RowError: the template refuses the row, or the mask cannot be proven.
        """
        return ahead.alone(self.steps(sample), self._text.words.ids)

    def encode_all(self, samples: Iterable[Sample]) -> Iterator[ahead.Outcome]:
        """``encode`` of each, in their order; a RowError in place of a row that is refused."""
        return ahead.together(map(self.steps, samples), self._text.words.ids)

    def steps(self, sample: Sample) -> ahead.Steps:
        """The way from a row to its tokens."""
        if sample.text is not None:
            return (yield from self._text.steps(sample))
        messages, tools = self._told(sample.messages, sample.tools)
        if not messages:
            raise RowError('the row has no messages')
        reader, conversation = self._conversation(messages, tools, sample.template_kwargs)
        known = reader.known(conversation)
        encoded = None if known is None else self._as_before(sample, conversation, reader, known, (yield known.text))
        if encoded is None:
            encoded = self._from_the_beginning(sample, conversation, reader)
        return self.truncate(encoded)

    def _from_the_beginning(self, sample: Sample, conversation: Conversation, reader: Reader) -> Encoded:
        """A row whose text is traced and searched for turns."""
        messages = conversation.messages
        trace = reader.read(conversation)
        tokens = reader.tokenizer(trace.text, _said(trace, messages))
        turns = reader.turns(trace, tokens, messages)
        self._note_losses(reader, trace, messages)
        encoded = self._weigh(sample, messages, trace, tokens, turns)
        if turns and turns[-1].message == len(messages) - 1 and turns[-1].stop is None:
            _, size = tokens.within(turns[-1].start, turns[-1].end)
            weight = self.scale.turn(messages, len(messages) - 1)
            return self._stopped(encoded, reader, trace, turns[-1], size, weight)
        reader.remember(conversation, trace, tokens, turns, by_blocks=self.scale.base != 'all')
        return encoded

    def _as_before(
        self, sample: Sample, conversation: Conversation, reader: Reader, known: Known, spelled: Sequence[int]
    ) -> Encoded | None:
        """A row of a shape that was read before; None if it needs to be read from the beginning all the same: its
        tokens are not where they were, or a part of an answer has a weight of its own."""
        layout, messages = known.layout, conversation.messages
        ends = reader.tokenizer.ends(spelled, known.text)
        if ends is None:
            return None
        ids = np.array(spelled, dtype=np.int32)
        match = layout.match(known.contents, ids, ends, reader.tokenizer.added(ids))
        if match is None or not self._weigh_alike(layout, match, messages, known.text):
            return None
        weight = np.full(len(ids), float(self.scale.base == 'all'), dtype=np.float32)
        role = np.zeros(len(ids), dtype=np.uint8)
        for number, span in layout.pieces:
            role[match.tokens(span)] = _NUMBER[messages[number].role]
        for turn in layout.turns:
            role[match.tokens(turn.whole)] = _NUMBER['assistant']
            own = self.scale.turn(messages, turn.message)
            for span in turn.weighed:
                weight[match.tokens(span)] = own
        weight[:1] = 0
        return Encoded(ids, weight, role, sample.origin)

    def _weigh_alike(self, layout: Layout, match: Match, messages: Sequence[Message], text: str) -> bool:
        """Whether no rule gives a part of an answer a weight of its own."""
        if not self.scale.rules:
            return True
        said = text.encode()
        answers = [(said[match.bytes(turn.answer)].decode(), turn.message) for turn in layout.turns]
        return all(self.scale.silent(answer, _question(messages, index)) for answer, index in answers)

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict] = (),
        pictures: Sequence[bytes] = (),
        **kwargs: Any,
    ) -> list[int]:
        """Ids of the conversation and the generation prompt, as ``apply_chat_template`` gives them.

        If the last message is an assistant's, the model is to go on with it.

        Raises:
            RowError: the template refuses the conversation, or does not show a picture.
            RequestError: the model cannot take the pictures.
        """
        messages, tools = self._told(messages, tools)
        sight.check(messages, pictures)
        reader, conversation = self._conversation(messages, tools, kwargs)
        prefix, said = self.args.response_prefix or '', []
        if messages and messages[-1].role == 'assistant':
            text, said = self._begun(reader, conversation)
        elif pictures or reader.suspects(conversation):
            trace = reader.read(conversation, prompt=True)
            text, said = trace.text + prefix, _said(trace, messages)
        else:
            text = reader.render(conversation, prompt=True) + prefix
        if pictures:
            text, said = sight.expanded(text, said, self.eye, pictures)
        return [*self._before(text), *reader.tokenizer(text, said).ids.tolist()]

    def _before(self, text: str) -> list[int]:
        """What processors, unlike tokenizers, put before a rendering that does not begin with it: the first token."""
        first = self.tokenizer.bos_token
        if self.eye is None or not first or text.startswith(first):
            return []
        return self._text.beginning

    def _begun(self, reader: Reader, conversation: Conversation) -> tuple[str, list[Said]]:
        """The text of a conversation whose last answer is to be continued, and who says what in it."""
        trace = reader.read(conversation)
        own = trace.of(len(conversation.messages) - 1)
        if not own:
            raise RowError('the last answer, which the model is to continue, says nothing')
        said = [part for part in _said(trace, conversation.messages) if part.end <= own[-1].end]
        return trace.text[: own[-1].end], said

    @cached_property
    def speech(self) -> Speech:
        """How the model marks its reasoning and its calls."""
        source = self._choose(True)
        calls = by_name(self.args.agent_template) if self.args.agent_template else of_template(source.text)
        return Speech(calls, thinking.spoken(source))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of answer tokens, without control tokens but those that mark reasoning and calls."""
        said = [id for id in ids if id not in self._silent]
        return self.tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @cached_property
    def _silent(self) -> frozenset[int]:
        """Control tokens that answers are shown without."""
        marks = self.speech.marks
        tokens = self.tokenizer.added_tokens_decoder.items()
        return frozenset(id for id, token in tokens if token.special and not any(token.content in m for m in marks))

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the same sample could encode differently."""
        sources = [self._choose(tools) for tools in (False, True)]
        told = {
            'sources': [source.text for source in sources],
            'args': asdict(self.args),
            'scale': self.scale.facts(),
            'tokens': self.tokenizer.special_tokens_map,
            'stops': sorted(self._known),
            'length': self.truncate.length,
            'clock': [source.clock(self._now) for source in sources],
        }
        return digest(told, self.tokenizer)

    # ------------------------------------------------------------------------------------------------------- parts
    def _reader(self, *, tools: bool) -> Reader:
        source = self._choose(tools)
        if source not in self._readers:
            told = thinking.variables(self.args, source)
            self._readers[source] = Reader(source, self.tokenizer, self._known, told, now=self._now)
        return self._readers[source]

    def _conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], own: Mapping[str, Any]
    ) -> tuple[Reader, Conversation]:
        reader = self._reader(tools=bool(tools))
        if tools and not reader.source.shows_tools:
            raise RowError(
                f'the row brings tools, but {reader.source.name} cannot show tools to the model; '
                'leave them out, name a format for them (--agent_template hermes), or give --template a template that '
                'has them'
            )
        return reader, Conversation(messages, tools, {**reader.variables, **own}, reader.tokenizer.suspicious)

    def _told(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Message, ...], Sequence[Mapping[str, Any]]]:
        """Messages with the run's system prompt, and tools; as text where ``--agent_template`` says in which words."""
        if self.args.system is not None and all(message.role != 'system' for message in messages):
            messages = (Message('system', self.args.system), *messages)
        if self.agent is None:
            return tuple(messages), tools
        return self.agent.tell(messages, tools), ()

    def _weigh(
        self, sample: Sample, messages: Sequence[Message], trace: Trace, tokens: Tokens, turns: Sequence[Turn]
    ) -> Encoded:
        size = len(tokens.ids)
        weight = np.full(size, float(self.scale.base == 'all'), dtype=np.float32)
        role = np.zeros(size, dtype=np.uint8)
        for piece in trace.pieces:
            if piece.field and piece.field.message >= 0:
                i, j = tokens.within(piece.start, piece.end)
                role[i:j] = _NUMBER[messages[piece.field.message].role]
        for turn in turns:
            last = turn.stop[1] if turn.stop else turn.end
            i, j = tokens.within(turn.start, last)
            role[i:j] = _NUMBER['assistant']
            _weigh_turn_(weight, self.scale, messages, trace, tokens, turn)
        if size:
            weight[0] = 0
        return Encoded(tokens.ids, weight, role, sample.origin)

    def _stopped(self, encoded: Encoded, reader: Reader, trace: Trace, turn: Turn, size: int, weight: float) -> Encoded:
        """The row, whose last answer ends with token ``size``, with the stop token that its template leaves out."""
        if trace.text[turn.end :].strip():
            self._note(f'{reader.source.name} goes on after the last answer without a stop token: none is trained')
            return encoded
        next_role = reader.turns.handover(trace, turn)
        id = next_role if next_role in self._known else self.tokenizer.eos_token_id
        if id is None:
            self._note(f'{reader.source.name} ends the last answer with no stop token, and the tokenizer has no eos')
            return encoded
        name = self.tokenizer.convert_ids_to_tokens(id)
        self._note(f'{reader.source.name} ends the last answer with no stop token: {name} is added and trained')
        grown = lambda array, value: np.append(array[:size], np.array(value, dtype=array.dtype))
        return replace(
            encoded,
            input_ids=grown(encoded.input_ids, id),
            weight=grown(encoded.weight, weight),
            role=grown(encoded.role, _NUMBER['assistant']),
        )

    def _note_losses(self, reader: Reader, trace: Trace, messages: Sequence[Message]) -> None:
        """Say once what of a row the template does not show."""
        shown = {(p.field.message, p.field.kind) for p in trace.pieces if p.field}
        for index, message in enumerate(messages):
            if (index, 'content') in shown or not thinking.answer(message):
                continue
            if message.role != 'assistant':
                self._note(f'{reader.source.name} does not show the {message.role} message of some rows')
            elif message.tool_calls:
                self._note(f'{reader.source.name} leaves out what an answer says beside a tool call')
        if messages[-1].reasoning and (len(messages) - 1, 'reasoning') not in shown and not reader.style.inline:
            self._note(
                f'{reader.source.name} does not show the reasoning of the last answer, so it is not trained; '
                'some templates do with --enable_thinking true'
            )

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _said(trace: Trace, messages: Sequence[Message]) -> list[Said]:
    """The pieces as the tokenizer wants them."""
    said = []
    for piece in trace.pieces:
        field = piece.field
        answer = bool(field) and field.kind != 'other' and messages[field.message].role == 'assistant'
        said.append(Said(piece.start, piece.end, answer, piece.lead, piece.tail))
    return said


def _question(messages: Sequence[Message], index: int) -> str:
    """What the answer ``messages[index]`` answers."""
    return next((m.content for m in reversed(messages[:index]) if m.role in ('user', 'tool')), '')


def _weigh_turn_(
    weight: np.ndarray, scale: LossScale, messages: Sequence[Message], trace: Trace, tokens: Tokens, turn: Turn
) -> None:
    """Write the weights of one turn. A token belongs to the first character of the answer that it holds."""
    own = scale.turn(messages, turn.message)
    question = _question(messages, turn.message)
    blocks = turn.parts(None if scale.base == 'all' else trace.blocks)
    if not blocks:
        return
    for first, last, part in reversed(scale.parts(trace.text[turn.start : turn.end], question)):
        for a, b in reversed(blocks):
            i, j = tokens.within(max(a, turn.start + first), min(b, turn.start + last))
            weight[i:j] = own * part
    if turn.stop:
        i, j = tokens.within(turn.end, turn.stop[1])  # blanks between them, too: they lead to the stop
        weight[i:j] = own
