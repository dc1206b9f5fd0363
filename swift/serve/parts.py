"""An answer in parts: what was thought, said and called, one after the other, with where each begins and ends.

So do the Responses and the Messages API tell an answer; that of chat tells it as one message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from starlette.responses import JSONResponse, Response

from swift.serve import events
from swift.serve.call import Call
from swift.serve.generate import Said
from swift.templates.answers import Delta


@dataclass
class Part:
    """The part number ``place`` of an answer; calls have an ``id`` and a ``name``, and their arguments are the text."""

    kind: Literal['content', 'reasoning', 'call']
    place: int
    id: str = ''
    name: str = ''
    text: str = ''


class Step(NamedTuple):
    """A part begins, has more text, or ends."""

    what: Literal['begin', 'more', 'end']
    part: Part
    text: str = ''


class Parts:
    """Puts one answer together. ``thinking_tokens``: up to the end of what was thought first."""

    def __init__(self) -> None:
        self.all: list[Part] = []
        self.ids: list[int] = []
        self.thinking_tokens = 0
        self.finish: str | None = None
        self._call: int | None = None  # number of the call that is open

    def take(self, said: Said) -> Iterator[Step]:
        """What is new, step by step: at each, the parts are what they are just then."""
        self.ids += said.ids
        for delta in said.deltas:
            if not self._continues(delta):
                yield from self._end()
                yield Step('begin', self._begin(delta))
            if delta.text:
                self.all[-1].text += delta.text
                yield Step('more', self.all[-1], delta.text)
        if self.all and all(part.kind == 'reasoning' for part in self.all):
            self.thinking_tokens = len(self.ids)
        if said.finish:
            self.finish = said.finish
            yield from self._end()

    async def collect(self, said: AsyncGenerator[Said, None]) -> None:
        """Take all of it."""
        async with events.whole(said):
            async for each in said:
                for _ in self.take(each):
                    pass

    def _continues(self, delta: Delta) -> bool:
        call = delta.index if delta.kind == 'call' else None
        return bool(self.all) and (self.all[-1].kind, self._call) == (delta.kind, call)

    def _begin(self, delta: Delta) -> Part:
        self._call = delta.index if delta.kind == 'call' else None
        self.all.append(Part(delta.kind, len(self.all), delta.id or '', delta.name or ''))
        return self.all[-1]

    def _end(self) -> Iterator[Step]:
        if self.all:
            yield Step('end', self.all[-1])


class Telling(Protocol):
    """An answer in the words of an API."""

    parts: Parts

    def events(self, said: AsyncGenerator[Said, None]) -> AsyncGenerator[Any, None]: ...
    def whole(self) -> dict[str, Any]: ...


async def respond(
    telling: Telling, said: AsyncGenerator[Said, None], call: Call, *, stream: bool, kept: str | None
) -> Response:
    """The answer as events, or whole; then its field ``kept`` goes to the log."""
    if stream:
        return await events.begun(telling.events(said), call, named=True)
    await telling.parts.collect(said)
    whole = telling.whole()
    if kept is not None:
        call.detail['answer'] = whole[kept]
    return JSONResponse(whole)
