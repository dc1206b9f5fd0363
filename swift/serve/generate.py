"""An answer while it is made: the engine's pieces, judged, parsed, counted, and aborted the moment nobody waits.

gate -> engine.begin -> pieces -> Speaker (rules, then reasoning and calls) -> Said, Said, ...
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from swift.core.errors import SwiftError
from swift.core.types import Engine, Piece, Request, TokenLogprob
from swift.serve.call import Call
from swift.serve.errors import ApiError, from_engine, later
from swift.serve.house import House
from swift.serve.moderation import Chain, Rule
from swift.templates.answers import Delta, Parser


class Said(NamedTuple):
    """What is new of choice ``index``; the last of a choice has ``finish``."""

    index: int
    deltas: Sequence[Delta]
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Requests that are answered together; choice i of request r is choice r * n + i of the answer.

    ``parsers``: one for each choice; () where answers are plain text. ``prefix``: how every answer begins.
    """

    requests: Sequence[Request]
    parsers: Sequence[Parser] = ()
    one_call: bool = False
    prefix: str = ''

    @property
    def n(self) -> int:
        """Choices of a request."""
        return self.requests[0].sampling.n

    @property
    def choices(self) -> int:
        """Choices of all."""
        return len(self.requests) * self.n

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are read."""
        return sum(len(request.prompt_ids) for request in self.requests)


class Speaker:
    """One choice: what may be shown of it, and as what."""

    def __init__(self, index: int, rules: Sequence[Rule], plan: Plan):
        self._index = index
        self._chain = Chain(rules) if rules else None
        self._parser = plan.parsers[index] if plan.parsers else None
        self._one_call = plan.one_call
        self._prefix = plan.prefix
        self._in = self._out = 0  # characters; logprobs wait until the text they belong to may be shown
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self.ended = False
        self.broken = False

    def take(self, piece: Piece) -> Said:
        """What the next piece adds."""
        if self._prefix:
            piece, self._prefix = replace(piece, text=self._prefix + piece.text), ''
        shown, self.broken = self._judged(piece)
        self.ended = self.broken or piece.finish is not None
        deltas = self._parsed(shown)
        finish = 'content_filter' if self.broken else piece.finish
        if finish == 'stop' and self._parser is not None and self._parser.called:
            finish = 'tool_calls'
        return Said(self._index, deltas, piece.ids, self._shown(piece, shown), finish, piece.prompt_logprobs)

    def _judged(self, piece: Piece) -> tuple[str, bool]:
        if self._chain is None:
            return piece.text, False
        shown, broken = self._chain.push(piece.text)
        if piece.finish is not None and not broken:
            rest, broken = self._chain.end()
            shown += rest
        return shown, broken

    def _parsed(self, shown: str) -> Sequence[Delta]:
        if self._parser is None:
            return [Delta('content', shown)] if shown else []
        deltas = [*self._parser.push(shown), *(self._parser.end() if self.ended else ())]
        return [each for each in deltas if not (self._one_call and each.kind == 'call' and each.index > 0)]

    def _shown(self, piece: Piece, shown: str) -> tuple[TokenLogprob, ...]:
        if self._chain is None:
            return piece.logprobs
        self._logprobs += piece.logprobs
        self._in, self._out = self._in + len(piece.text), self._out + len(shown)
        if self._in != self._out:
            return ()
        ready, self._logprobs = self._logprobs, ()
        return ready


async def answers(house: House, call: Call, plan: Plan) -> AsyncGenerator[Said, None]:
    """What is said, as it is said. Closing the iterator aborts what is not finished.

    Raises:
        ApiError: the request cannot be answered; after the first item it was begun to be.
    """
    deadline = call.began + house.bounds.deadline
    call.prompt_tokens = plan.prompt_tokens
    tokens = call.prompt_tokens
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                turn = house.gate.turn(call.key.id, plan.choices, call.key.allowance.parallel)
                await stack.enter_async_context(turn)
        except TimeoutError:
            raise _too_late(house) from None
        stack.callback(lambda: house.count(call.key.id, tokens))
        speakers = [Speaker(i, house.rules, plan) for i in range(plan.choices)]
        pieces = await stack.enter_async_context(contextlib.aclosing(_pieces(house, plan.requests, deadline)))
        before = None
        async for request, piece in pieces:
            now = time.monotonic()
            call.first = call.first or now
            if before is not None:
                house.seen.between.see(now - before)
            before = now
            tokens += len(piece.ids)
            call.answer_tokens += len(piece.ids)
            speaker = speakers[request * plan.n + piece.index]
            if speaker.ended:
                continue
            if piece.finish in ('abort', 'error'):
                raise later('the answer was cut off: the engine is about to end', 'aborted', 5)
            yield speaker.take(piece)
            if speaker.broken:
                house.seen.broken.add('output')
                call.code = 'content_filter'
            if all(each.ended for each in speakers) and any(each.broken for each in speakers):
                return  # the engine does not know that nothing more may be said


async def _pieces(
    house: House, requests: Sequence[Request], deadline: float
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all requests, with the number of theirs. Whatever ends this aborts those that have not ended."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue()
    engine, open_ = house.chat.engine, {}
    late = loop.call_later(deadline - time.monotonic(), inbox.put_nowait, (None, _too_late(house)))
    try:
        for i, request in enumerate(requests):
            engine.begin(request, lambda item, i=i: loop.call_soon_threadsafe(inbox.put_nowait, (i, item)))
            open_[i] = request.id
            house.asked.add(request.id)
        while open_:
            i, item = await inbox.get()
            if item is None:
                house.asked.discard(open_.pop(i))
            elif isinstance(item, BaseException):
                raise item
            else:
                yield i, item
    except Exception as error:
        raise from_engine(error) from error
    finally:
        late.cancel()
        house.asked.difference_update(open_.values())
        _abort(engine, open_.values())


def _abort(engine: Engine, ids: Any) -> None:
    for id in ids:
        with contextlib.suppress(SwiftError):  # it is closed, and so is the request
            engine.abort(id)


def _too_late(house: House) -> ApiError:
    return later(f'not answered within {house.bounds.deadline:g} s', 'deadline', 10)
