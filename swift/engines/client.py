"""``RemoteEngine``: a server somewhere else as an Engine: tokens go there, tokens come back, text is made here.

Request --dialect.body--> HTTP --dialect.read--> Delta --Detokenizer, StopFinder--> Piece

Text is decoded by the same code as that of the native engine, so the same tokens read the same whoever drew them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.core.errors import ModelError, RequestError, SwiftError, did_you_mean
from swift.core.types import Piece, Request
from swift.engines.connection import Connection
from swift.engines.dialects import Delta, Dialect
from swift.engines.native.text import Detokenizer, StopFinder
from swift.engines.waiting import Deliver, Waiting

FINISH = {'stop': 'stop', 'length': 'length', 'abort': 'abort', 'error': 'error'}  # any other reason is a stop
LOADING = 600.0  # seconds that a server may take to load an adapter
OUTCOMES = ('accepted', 'finished', 'aborted', 'failed')


class RemoteEngine(Waiting):
    """Implements ``core.types.Engine`` over a server.

    Args:
        connection: The connection; it is closed with the engine.
        dialect: How the server says things.
        model: The server's name of its model.
        decode: Text of token ids, without control tokens.
        adapters: Names of those that the server has loaded already.
        overwrite: Gives the server new weights; None where it cannot take any.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        *,
        model: str,
        decode: Callable[[Sequence[int]], str],
        adapters: Sequence[str] = (),
        overwrite: Callable[[Iterable[tuple[str, Any]]], None] | None = None,
    ):
        self._connection = connection
        self._dialect = dialect
        self._model = model
        self._decode = decode
        self._adapters = list(adapters)
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._open: dict[str, asyncio.Task | None] = {}  # None until its task has begun
        self._tag = secrets.token_hex(4)
        self._counts = dict.fromkeys((*OUTCOMES, 'prompt_tokens', 'answer_tokens'), 0)
        self._heard = time.monotonic()

    # --------------------------------------------------------------------------------------------------- requests
    def begin(self, request: Request, deliver: Deliver) -> None:
        """Send a request. Raises RequestError when it is not valid, SwiftError when the engine is closed."""
        self._dialect.check(request)
        if not request.prompt_ids:
            raise RequestError('the prompt is empty', param='prompt')
        if request.adapter is not None and request.adapter not in self._adapters:
            raise RequestError(
                f'adapter {request.adapter!r} is not loaded{did_you_mean(request.adapter, self._adapters)} '
                f'Loaded: {", ".join(self._adapters) or "none"}',
                param='adapter',
            )
        with self._lock:
            if request.id in self._open:
                raise RequestError(f'request {request.id!r} is under way already', param='id')
            self._connection.start(self._answer(request, deliver))
            if not self._open:
                self._heard = time.monotonic()
            self._open[request.id] = None
            self._counts['accepted'] += 1

    def abort(self, id: str) -> None:
        """Hang up, which frees the request at the server; its open answers finish with ``abort``."""
        self._connection.start(self._cancel(id))

    async def _cancel(self, id: str) -> None:
        if (task := self._open.get(id)) is not None:  # its first step came before ours
            task.cancel()

    async def _answer(self, request: Request, deliver: Deliver) -> None:
        """Deliver the pieces of a request, and then None or what went wrong."""
        with self._lock:
            self._open[request.id] = asyncio.current_task()
        choices = [Choice(i, request, self._decode) for i in range(request.sampling.n)]
        last: BaseException | None = None
        outcome = 'failed'
        try:
            async with contextlib.aclosing(self._deltas(request)) as deltas:
                async for delta in deltas:
                    self._heard = time.monotonic()
                    self._counts['answer_tokens'] += len(delta.ids)
                    if (piece := choices[delta.index].accept(delta)) is not None:
                        deliver(piece)
            if any(choice.open for choice in choices):
                raise SwiftError(f'{self._dialect.name} ended an answer without saying why')
            outcome = 'finished'
        except asyncio.CancelledError:
            outcome = 'aborted'
            for choice in choices:
                if choice.open:
                    self._tell(deliver, choice.end('abort'))
        except Exception as error:
            last = error
        self._counts['prompt_tokens'] += len(request.prompt_ids)
        self._counts[outcome] += 1
        with self._lock:
            self._open.pop(request.id, None)
        self._tell(deliver, last)

    def _deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        """What comes for all choices. A server that takes one choice a request gets as many requests."""
        return self._events(request) if self._dialect.many or request.sampling.n == 1 else self._one_by_one(request)

    async def _one_by_one(self, request: Request) -> AsyncGenerator[Delta, None]:
        single = replace(request, sampling=replace(request.sampling, n=1))
        for index in range(request.sampling.n):
            async with contextlib.aclosing(self._events(replace(single, id=f'{request.id}-{index}'))) as deltas:
                async for delta in deltas:
                    yield replace(delta, index=index)

    async def _events(self, request: Request) -> AsyncGenerator[Delta, None]:
        named = replace(request, id=f'{self._tag}-{request.id}')  # a server may have other clients than us
        body, seen = self._dialect.body(named, self._model), dict.fromkeys(range(request.sampling.n), 0)
        events = self._connection.events(self._dialect.path, body) if body['stream'] else self._whole(body)
        async with contextlib.aclosing(events):
            async for event in events:
                for delta in self._dialect.read(event, request, seen):
                    seen[delta.index] += len(delta.ids)
                    yield delta

    async def _whole(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        yield await self._connection.ask(self._dialect.path, body)

    @staticmethod
    def _tell(deliver: Deliver, item: Piece | BaseException | None) -> None:
        with contextlib.suppress(Exception):  # a waiter whose event loop is closed cannot be told
            deliver(item)

    # ---------------------------------------------------------------------------------------------------- weights
    def update(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Overwrite weights, where the server can. Raises ModelError where it cannot."""
        if self._overwrite is None:
            raise ModelError(f'{self._dialect.name}: weights cannot be sent to this server; use the native engine')
        self._overwrite(weights)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that requests can give as their adapter."""
        return tuple(self._adapters)

    def load_adapter(self, name: str, path: Path) -> None:
        """Have the server load the peft adapter in ``path``, as it sees it. Raises ModelError."""
        load, _ = self._paths()
        if name in self._adapters:
            raise ModelError(f'adapter {name!r} is loaded already; unload it first, or choose another name')
        self._ask_for_adapter(load, {'lora_name': name, 'lora_path': str(path)}, f'{path} cannot be loaded')
        self._adapters.append(name)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ModelError."""
        _, unload = self._paths()
        if name not in self._adapters:
            raise ModelError(f'adapter {name!r} is not loaded')
        self._ask_for_adapter(unload, {'lora_name': name}, f'{name!r} cannot be unloaded')
        self._adapters.remove(name)

    def _paths(self) -> tuple[str, ...]:
        if not self._dialect.adapters:
            raise ModelError(
                f'{self._dialect.name}: adapters cannot be loaded into its server; merge the adapter '
                '(swift merge-lora), or use --infer_backend native or vllm'
            )
        return self._dialect.adapters

    def _ask_for_adapter(self, path: str, body: dict[str, str], what: str) -> None:
        try:
            self._connection.call(path, body, timeout=LOADING)
        except RequestError as error:
            raise ModelError(f'{self._dialect.name}: the adapter {what}: {error}') from error

    # ------------------------------------------------------------------------------------------------------- life
    def stats(self) -> dict[str, float]:
        """Counters since the start (accepted = finished + aborted + failed + open), and what is going on now."""
        with self._lock:
            open_now = len(self._open)
        silent = time.monotonic() - self._heard if open_now else 0.0
        return {**self._counts, 'open': open_now, 'running': open_now, 'waiting': 0, 'step_age': silent}

    def close(self) -> None:
        """Abort what is open and hang up."""
        self._connection.close()


class Choice:
    """One answer as it comes: its tokens become text, up to a stop string."""

    def __init__(self, index: int, request: Request, decode: Callable[[Sequence[int]], str]):
        self.open = True
        self._index = index
        self._stop_ids = frozenset(request.sampling.stop_ids)
        self._text, self._stops = (
            Detokenizer(decode),
            StopFinder(request.sampling.stop, after=request.sampling.min_tokens),
        )

    def accept(self, delta: Delta) -> Piece | None:
        """The piece that new tokens make; None when there is nothing to tell, or the answer had ended."""
        if not self.open:
            return None
        shown, stopped = '', False
        for token in delta.ids:
            if token in self._stop_ids or stopped:
                break
            text, stopped = self._stops.push(self._text.push(token))
            shown += text
        finish: Any = delta.finish and FINISH.get(delta.finish, 'stop')
        if stopped:
            finish = 'stop'
        elif finish is not None:
            shown += self._rest()
        self.open = finish is None
        if not (shown or delta.ids or finish or delta.prompt_logprobs):
            return None
        return Piece(self._index, shown, delta.ids, delta.logprobs, finish, delta.prompt_logprobs)

    def end(self, finish: Any) -> Piece:
        """The last piece of an answer that ends before its time."""
        self.open = False
        return Piece(self._index, self._rest(), finish=finish)

    def _rest(self) -> str:
        """What was held back."""
        text, stopped = self._stops.push(self._text.flush())
        return text if stopped else text + self._stops.flush()
