"""Everything that one server is made of, and what is known of it while it runs. Routes read it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from swift.core.errors import DiskError, SwiftError, did_you_mean
from swift.core.log import get_logger
from swift.serve.audit import Audit
from swift.serve.auth import Keys
from swift.serve.bounds import Bounds
from swift.serve.call import Call
from swift.serve.errors import ApiError, later
from swift.serve.gate import Gate
from swift.serve.ledger import Ledger
from swift.serve.metrics import Counter, Gauge, Histogram
from swift.serve.moderation import Rule
from swift.serve.shared_ledger import SharedLedger

T = TypeVar('T')
WORKERS = 4  # threads that parse, render and tokenise


@dataclass
class Seen:
    """What the server counts."""

    requests: Counter = field(
        default_factory=lambda: Counter('swift_requests_total', 'Requests answered.', ('route', 'status'))
    )
    tokens: Counter = field(
        default_factory=lambda: Counter('swift_tokens_total', 'Tokens read and written.', ('kind',))
    )
    left: Counter = field(default_factory=lambda: Counter('swift_aborts_total', 'Requests whose client left.'))
    broken: Counter = field(
        default_factory=lambda: Counter('swift_moderated_total', 'Texts that broke a rule.', ('side',))
    )
    seconds: Histogram = field(
        default_factory=lambda: Histogram('swift_request_seconds', 'From a request to the end of its answer.')
    )
    first: Histogram = field(
        default_factory=lambda: Histogram('swift_first_token_seconds', 'From a request to its first token.')
    )
    between: Histogram = field(
        default_factory=lambda: Histogram('swift_between_tokens_seconds', 'Between two pieces of an answer.')
    )


@dataclass(frozen=True)
class Usual:
    """What is done where a request does not say it; None of ``max_tokens`` means as many as fit."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    regex: str | None = None  # where a request asks for no form and brings no tools


@dataclass
class House:
    """A server without its sockets.

    The engine of ``chat`` answers under ``name`` and, with its adapters, under their names; where the model only reads,
    a ``pooled.Outline`` stands there. ``encode`` turns plain text into tokens. ``rules`` judge what is asked and
    answered. ``routes`` are the paths that metrics call by their names, ``lines`` those whose requests get in line.
    """

    name: str
    chat: Any
    encode: Callable[[str], list[int]]
    keys: Keys
    ledger: Ledger | SharedLedger
    gate: Gate
    bounds: Bounds = field(default_factory=Bounds)
    rules: Sequence[Rule] = ()
    audit: Audit | None = None
    usual: Usual = field(default_factory=Usual)
    owned_by: str = 'swift'
    max_logprobs: int = 20
    verbose: bool = False
    default_adapter: str | None = None
    routes: frozenset[str] = frozenset()
    lines: frozenset[str] = frozenset()
    created: int = field(default_factory=lambda: int(time.time()))
    seen: Seen = field(default_factory=Seen)
    draining: bool = False
    broken: str | None = None  # why nothing may be answered any more
    open: set[Call] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)  # ids of requests that the engine answers
    lag: float = 0.0

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix='swift-serve')
        self._books = ThreadPoolExecutor(1, thread_name_prefix='swift-ledger')

    # ------------------------------------------------------------------------------------------------------ threads
    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Run what takes long in a thread: the event loop never waits."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def book(self, function: Callable[..., T], *args: Any) -> T:
        """Run what touches the ledger, in order. Raises ApiError 503 when it cannot be written."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._books, function, *args)
        except ApiError:
            raise
        except Exception as error:
            get_logger().error('usage cannot be counted: %s', error)
            raise later('usage cannot be counted at the moment', 'usage_unavailable', 5) from error

    async def admit(self, call: Call) -> None:
        """Let a request in that the engine will answer. Raises ApiError 429 or 503; nothing was computed then."""
        self._refuse_line(call)
        await self.book(self.ledger.take, call.key.id, call.key.allowance)

    def _refuse_line(self, call: Call) -> None:
        """Raises ApiError for what could not even get in line."""
        if self.ready:
            raise later(self.ready, 'engine_unavailable', 5)
        self.gate.check(call.key.id, call.key.allowance.parallel)

    def count(self, key: str, tokens: int) -> None:
        """Write down what was used; never waits."""
        self._books.submit(self._count, key, tokens)

    def _count(self, key: str, tokens: int) -> None:
        try:
            self.ledger.count(key, tokens)
        except Exception as error:
            get_logger().error('usage cannot be counted: %s', error)

    # -------------------------------------------------------------------------------------------------------- models
    @property
    def body_limit(self) -> int:
        """Bytes that a body may have."""
        bounds = self.bounds
        return bounds.body_bytes if self.chat.blind else max(bounds.body_bytes, bounds.media_body_bytes)

    @property
    def models(self) -> tuple[str, ...]:
        """Names that ``model`` may have."""
        return (self.name, *(each for each in self.chat.engine.adapters if each != self.default_adapter))

    def adapter(self, model: str | None) -> str | None:
        """The adapter that answers under a name. Raises ApiError 404."""
        if model is None or model == self.name:
            return self.default_adapter
        if model in self.models:
            return model
        raise ApiError(
            404,
            f'there is no model {model!r}{did_you_mean(model, self.models) or "."} Served: {", ".join(self.models)}',
            'model_not_found',
            'model',
        )

    # -------------------------------------------------------------------------------------------------------- health
    @property
    def ready(self) -> str | None:
        """None where requests are answered, else why not."""
        if self.draining:
            return 'the server is about to end'
        if self.broken:
            return self.broken
        return None if self.engine_ready else 'the engine is being started or does not answer'

    async def health(self) -> str | None:
        """As ``ready``, having asked the ledger as well."""
        if self.ready:
            return self.ready
        try:
            await self.book(self.ledger.check)
        except ApiError as error:
            return error.message
        return None

    @property
    def engine_ready(self) -> bool:
        """Whether the engine finished a step lately."""
        return self.chat.engine.ready

    def refuse_work(self, call: Call) -> None:
        """Raises ApiError 503 or 429 for what cannot be begun now, before its body is read."""
        if call.method != 'POST':
            return
        if self.draining:
            raise later('the server is about to end', 'draining', 5)
        if self.broken:
            raise later(self.broken, 'broken', 60)
        if call.path in self.lines:
            self._refuse_line(call)

    def audit_failed(self, error: DiskError) -> None:
        """Nothing may be answered that cannot be written down."""
        self.broken = f'the audit log cannot be written ({error})'

    # --------------------------------------------------------------------------------------------------------- calls
    def begin(self, call: Call) -> None:
        """A request has come."""
        self.open.add(call)

    def end(self, call: Call) -> None:
        """A request has ended: count it and write it down."""
        self.open.discard(call)
        record = call.record()
        self.seen.requests.add(call.path if call.path in self.routes else 'other', str(record['status']))
        self.seen.seconds.see(call.seconds)
        if call.first is not None:
            self.seen.first.see(call.first - call.began)
        if call.gone:
            self.seen.left.add()
        for kind, tokens in (('prompt', call.prompt_tokens), ('answer', call.answer_tokens)):
            if tokens:
                self.seen.tokens.add(kind, by=tokens)
        if self.audit is not None and call.method == 'POST':
            self.audit.add(record)
        level = logging.DEBUG if call.quiet else logging.INFO
        line = json.dumps({**record, 'client': call.client, **call.detail}, ensure_ascii=False)
        get_logger('access').log(level, line)

    def cut(self) -> None:
        """Abort everything that the engine answers; clients are told that it was."""
        for id in list(self.asked):
            with contextlib.suppress(SwiftError):
                self.chat.engine.abort(id)

    async def metrics(self) -> list[Counter | Gauge | Histogram]:
        """All numbers, with what the engine says of itself."""
        stats, ready = self.chat.engine.stats(), await self.health() is None
        gauges = [
            Gauge('swift_ready', '1 where requests are answered.', lambda: float(ready)),
            Gauge('swift_requests_open', 'Requests under way.', lambda: float(len(self.open))),
            Gauge('swift_queue_waiting', 'Requests that wait for the engine.', lambda: float(self.gate.waiting)),
            Gauge('swift_queue_running', 'Answers that the engine was given.', lambda: float(self.gate.running)),
            Gauge('swift_queue_wait_seconds', 'How long a request that comes now would wait.', self.gate.wait),
            Gauge('swift_loop_lag_seconds', 'How late the event loop is.', lambda: self.lag),
        ]
        gauges += [
            Gauge(f'swift_engine_{name}', f'What the engine says: {name}.', lambda value=value: float(value))
            for name, value in sorted(stats.items())
        ]
        seen = self.seen
        return [seen.requests, seen.tokens, seen.left, seen.broken, seen.seconds, seen.first, seen.between, *gauges]

    def close(self) -> None:
        """End threads and files; the engine is its owner's."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._books.shutdown(wait=True)
        self.ledger.close()
        if self.audit is not None:
            self.audit.close()
