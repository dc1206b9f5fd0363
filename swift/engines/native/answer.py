"""One request on its way through the engine, and the answers (choices) that grow from its prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from swift.core.types import Piece, Request, TokenLogprob
from swift.engines.grammar import Compiled
from swift.engines.native.sample import Draw
from swift.engines.native.text import Detokenizer, StopFinder
from swift.engines.waiting import Deliver

Finish = Literal['stop', 'length', 'abort']


class WaiterGone(Exception):
    """Whoever asked can no longer be told: its event loop is closed, say."""


@dataclass(eq=False)
class Ticket:
    """A request and its waiter. It is open until every answer has ended, or one failure ended them all.

    ``held``: so many things are still made ready for it. ``seen``: what the model takes of its pictures, until the
    prompt is read. ``shift``: what the position of a later token is beyond the number of tokens before it.
    """

    request: Request
    deliver: Deliver
    answers: list[Answer] = field(default_factory=list)  # those that have not ended
    closed: bool = False
    held: int = 0
    seen: Mapping[str, Tensor] | None = None
    shift: int = 0

    def constrain(self, compiled: Compiled) -> None:
        """Let the answers follow a grammar."""
        for answer in self.answers:
            answer.draw.constraint = compiled.start(answer.stop_ids)

    def look(self, seen: Mapping[str, Tensor]) -> None:
        """Let the prompt be read with its pictures."""
        self.seen = seen

    def close(self, last: BaseException | None = None) -> None:
        """Tell the waiter that nothing more comes. A waiter that is gone cannot be told, and that is all right."""
        self.closed = True
        self.answers, self.seen = [], None
        with contextlib.suppress(Exception):
            self.deliver(last)


@dataclass(eq=False)
class Answer:
    """Choice ``index`` of a request: how it draws, what it has said, and whether it may go on."""

    ticket: Ticket
    index: int
    draw: Draw
    text: Detokenizer
    stops: StopFinder
    limit: int  # tokens
    stop_ids: frozenset[int]
    said: list[int] = field(default_factory=list)  # all its tokens
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # told with the first piece
    _ids: list[int] = field(default_factory=list)  # since the last piece
    _logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many tokens it has."""
        return len(self.said)

    def accept(self, token: int, logprob: TokenLogprob | None) -> bool:
        """Take the next token and deliver what can be shown. Returns whether the answer goes on."""
        self.said.append(token)
        self.draw.note(token)
        self._ids.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if token in self.stop_ids:
            return self.end('stop')
        shown, stopped = self.stops.push(self.text.push(token))
        if stopped:
            return self._deliver(shown, 'stop')
        if self.draw.constraint is not None and self.draw.constraint.done:
            return self.end('stop', shown)
        if self.count >= self.limit:
            return self.end('length', shown)
        if shown:
            self._deliver(shown)
        return True

    def end(self, finish: Finish, shown: str = '') -> bool:
        """Deliver ``shown``, what was held back, and the reason for the end. Returns False."""
        rest, stopped = self.stops.push(self.text.flush())
        if stopped:
            return self._deliver(shown + rest, 'stop')
        return self._deliver(shown + rest + self.stops.flush(), finish)

    def _deliver(self, text: str, finish: Finish | None = None) -> bool:
        about_prompt, self.prompt_logprobs = tuple(self.prompt_logprobs), []
        piece = Piece(self.index, text, tuple(self._ids), tuple(self._logprobs), finish, about_prompt)
        try:
            self.ticket.deliver(piece)
        except Exception as error:
            raise WaiterGone from error
        self._ids, self._logprobs = [], []
        return finish is None


def open_ticket(
    request: Request,
    deliver: Deliver,
    *,
    decode: Callable[[Sequence[int]], str],
    stop_ids: frozenset[int],
    max_model_len: int,
    vocabulary: int,
    device: torch.device,
) -> Ticket:
    """A request with its ``n`` answers before their first token."""
    ticket, sampling = Ticket(request, deliver), request.sampling
    ends = stop_ids | frozenset(sampling.stop_ids)
    ticket.answers = [
        Answer(
            ticket,
            index,
            Draw.start(sampling, index, request.prompt_ids, vocabulary, device, ends=ends),
            Detokenizer(decode),
            StopFinder(sampling.stop, after=sampling.min_tokens),
            limit=min(sampling.max_tokens, max_model_len - len(request.prompt_ids)),
            stop_ids=ends,
        )
        for index in range(sampling.n)
    ]
    return ticket
