"""What goes between a server and its engine's process: frames of JSON with their length before them. Data, never code.

to the engine    ['open', recipe] ['begin', request] ['abort', id] ['call', number, name, arguments] ['close']
from the engine  ['ready', names of adapters] ['failed', error] ['pieces', [[id, piece | error | null], ...]]
                 ['answer', number, value, error | null] ['stats', {...}]
"""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Iterator
from typing import Any

from swift.core import errors
from swift.core.errors import ConfigError, RequestError, SwiftError
from swift.core.types import Grammar, Piece, Request, Sampling, TokenLogprob

HEADER = struct.Struct('>I')
LONGEST = 1 << 28  # bytes; a frame that says more is no frame


def frame(message: list[Any]) -> bytes:
    """A message as bytes."""
    data = json.dumps(message, separators=(',', ':')).encode()
    return HEADER.pack(len(data)) + data


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def push(self, data: bytes) -> Iterator[list[Any]]:
        """The messages that are whole now. Raises ValueError where the bytes are no frames."""
        self._held += data
        while len(self._held) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._held)
            if size > LONGEST:
                raise ValueError(f'a frame of {size} bytes')
            end = HEADER.size + size
            if len(self._held) < end:
                return
            message = json.loads(self._held[HEADER.size : end])
            del self._held[:end]
            yield message


# ---------------------------------------------------------------------------------------------------------- requests
def request_out(request: Request) -> dict[str, Any]:
    """A request as JSON values."""
    pictures = [base64.b64encode(data).decode() for data in request.pictures]
    return {**dataclasses.asdict(dataclasses.replace(request, pictures=())), 'pictures': pictures}


def request_in(value: dict[str, Any]) -> Request:
    """The request of JSON values."""
    said = dict(value['sampling'])
    for name in ('stop', 'stop_ids'):
        said[name] = tuple(said[name])
    said['logit_bias'] = tuple((id, value) for id, value in said['logit_bias'])
    if said['grammar'] is not None:
        said['grammar'] = Grammar(**said['grammar'])
    pictures = tuple(map(base64.b64decode, value['pictures']))
    changed = {'prompt_ids': tuple(value['prompt_ids']), 'sampling': Sampling(**said), 'pictures': pictures}
    return Request(**{**value, **changed})


# ------------------------------------------------------------------------------------------------------------ pieces
def item_out(item: Piece | BaseException | None) -> Any:
    """What an engine delivers, as JSON values: a list for a piece, a mapping for an error."""
    if item is None:
        return None
    if isinstance(item, BaseException):
        return error_out(item)
    return [
        item.index,
        item.text,
        item.ids,
        item.logprobs and _out(item.logprobs),
        item.finish,
        _out(item.prompt_logprobs),
    ]


def item_in(value: Any) -> Piece | BaseException | None:
    """What was delivered, of JSON values."""
    if value is None:
        return None
    if isinstance(value, dict):
        return error_in(value)
    index, text, ids, logprobs, finish, prompt = value
    return Piece(index, text, tuple(ids), _in(logprobs), finish, _in(prompt))


def _out(logprobs: tuple[TokenLogprob, ...]) -> list[Any]:
    return [[each.id, each.logprob, each.top] for each in logprobs]


def _in(value: list[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(id, logprob, tuple((i, p) for i, p in top)) for id, logprob, top in value)


# ------------------------------------------------------------------------------------------------------------ errors
def error_out(error: BaseException) -> dict[str, Any]:
    """An error by its kind and words."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, SwiftError) else f'{kind}: {error}'
    return {'kind': kind, 'text': text, 'param': getattr(error, 'param', None)}


def error_in(value: dict[str, Any]) -> SwiftError:
    """The error of a kind, or a plain ``SwiftError`` where the kind is none of ours."""
    kind = getattr(errors, value['kind'], None)
    if kind is RequestError:
        return RequestError(value['text'], param=value['param'])
    if kind is ConfigError or kind in PLAIN:
        return kind(value['text'])
    return SwiftError(value['text'])


PLAIN = tuple(
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, SwiftError) and each.__init__ is SwiftError.__init__
)
"""Kinds that are made of their words alone."""
