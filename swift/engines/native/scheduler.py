"""Which answers get their next token now: requests join and leave a batch between any two tokens.

One step prefills one batch of waiting prompts and then gives every running answer a token. Answers with the same
adapter run as one group with one KV cache. A failure ends the requests it belongs to and nothing else.

    waiting --prefill--> group (adapter, cache, answers) --decode, one token a step--> ended
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from swift.core.errors import NumericalError, OutOfMemory, RequestError
from swift.core.types import Request
from swift.engines.grammar import Compiled
from swift.engines.native import cache as kv
from swift.engines.native.answer import Answer, Deliver, Ticket, WaiterGone, open_ticket
from swift.engines.native.runner import Runner
from swift.engines.native.sample import choose


@dataclass(eq=False)
class Group:
    """Answers that decode together: the rows of one cache."""

    adapter: str | None
    cache: Cache
    answers: list[Answer]
    lengths: list[int]  # tokens of each row in the cache


@dataclass(frozen=True)
class Limits:
    """Sizes that bound memory."""

    max_model_len: int  # tokens of prompt and answer together
    max_batch_size: int = 16  # answers that decode at once; more wait
    max_prefill_tokens: int = 4096  # tokens, padding included, of prompts that are read together


class Scheduler:
    """Owns the requests from arrival to end. Not thread-safe: the engine's thread calls everything here."""

    def __init__(
        self,
        runner: Runner,
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: frozenset[int],
        limits: Limits,
        generator: torch.Generator,
    ):
        self.runner = runner
        self.limits = limits
        self.waiting: deque[Answer] = deque()
        self.groups: list[Group] = []
        self.tickets: dict[str, Ticket] = {}
        self.heartbeat = time.monotonic()  # when the last step ended
        self.counts: dict[str, int] = dict.fromkeys(
            ('accepted', 'finished', 'aborted', 'failed', 'prompt_tokens', 'answer_tokens', 'steps'), 0
        )
        self._decode_ids = decode
        self._stop_ids = stop_ids
        self._generator = generator

    # ------------------------------------------------------------------------------------------ arrivals and ends
    def add(self, request: Request, deliver: Deliver, *, held: bool = False) -> Ticket:
        """Take a request on and queue it, or leave that to ``release`` if it is ``held``.

        Raises:
            RequestError: its id is in use.
        """
        if request.id in self.tickets:
            raise RequestError(f'request id {request.id!r} is in use', param='id')
        ticket = open_ticket(
            request,
            deliver,
            decode=self._decode_ids,
            stop_ids=self._stop_ids,
            max_model_len=self.limits.max_model_len,
            vocabulary=self.runner.vocabulary,
            device=self.runner.device,
        )
        self.counts['accepted'] += 1
        self.tickets[request.id] = ticket
        if not held:
            self.waiting.extend(ticket.answers)
        return ticket

    def release(self, ticket: Ticket, compiled: Future[Compiled]) -> None:
        """Queue a held request whose grammar is compiled, or end it with what that failed with."""
        with self._failing(ticket.answers):
            for answer in ticket.answers:
                answer.draw.constraint = compiled.result().start(answer.stop_ids)
        self.waiting.extend(ticket.answers)

    def abort(self, id: str) -> None:
        """End a request now; its rows leave the cache with the next step. Unknown or ended ids are fine."""
        ticket = self.tickets.get(id)
        if ticket is None:
            return
        for answer in ticket.answers:
            with contextlib.suppress(Exception):  # a waiter that is gone, or text that cannot be decoded
                answer.end('abort')
        self._close(ticket, 'aborted')

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """End a request with an error for its waiter."""
        if not ticket.closed:
            self._close(ticket, 'failed', error)

    def fail_all(self, error: BaseException) -> None:
        """End everything: the engine cannot go on."""
        for ticket in list(self.tickets.values()):
            self.fail(ticket, error)
        self.waiting.clear()
        self.groups.clear()

    def _close(self, ticket: Ticket, how: str, error: BaseException | None = None) -> None:
        self.counts[how] += 1
        del self.tickets[ticket.request.id]
        ticket.close(error)

    def uses(self, adapter: str) -> int:
        """How many requests need ``adapter``."""
        return sum(ticket.request.adapter == adapter for ticket in self.tickets.values())

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self.groups or self.waiting)

    @property
    def running(self) -> int:
        """Answers that have a row in a cache."""
        return sum(len(group.answers) for group in self.groups)

    # ------------------------------------------------------------------------------------------------------- step
    def step(self) -> None:
        """Prefill one batch if there is room, then one token for every running answer."""
        self.counts['steps'] += 1
        for group in self.groups:
            self._keep_open(group)
        self.groups = [group for group in self.groups if group.answers]
        running = list(self.groups)
        if batch := self._next_batch():
            self._prefill(batch)
        for group in running:
            with self._failing(group.answers):
                self._decode(group)

    def _next_batch(self) -> list[Answer]:
        """The waiting answers to prefill together: one adapter, within the room for rows and for prompt tokens."""
        room = self.limits.max_batch_size - self.running
        batch: list[Answer] = []
        prompts: set[Ticket] = set()
        passed: list[Answer] = []  # they wait for a batch of their own kind; the first of the queue always goes
        while self.waiting and len(batch) < room and len(passed) < self.limits.max_batch_size:
            answer = self.waiting.popleft()
            if answer.ticket.closed:
                continue
            if not batch or self._fits(answer, batch[0], prompts):
                batch.append(answer)
                prompts.add(answer.ticket)
            else:
                passed.append(answer)
        self.waiting.extendleft(reversed(passed))
        return batch

    def _fits(self, answer: Answer, first: Answer, prompts: set[Ticket]) -> bool:
        if answer.ticket in prompts:
            return True
        ours, theirs = answer.ticket.request, first.ticket.request
        if ours.adapter != theirs.adapter or not self.runner.joinable:
            return False
        if not self.runner.pads_prompts and len(ours.prompt_ids) != len(theirs.prompt_ids):
            return False
        widest = max(len(ours.prompt_ids), *(len(ticket.request.prompt_ids) for ticket in prompts))
        return widest * (len(prompts) + 1) <= self.limits.max_prefill_tokens

    def _prefill(self, batch: list[Answer]) -> None:
        """First tokens. If prompts fail together, each is tried alone, so that only the guilty one ends."""
        tickets = list(dict.fromkeys(answer.ticket for answer in batch))
        try:
            group, logits = self._start(tickets, batch)
        except Exception as error:
            if len(tickets) == 1:
                return self.fail(tickets[0], _explained(error))
            for ticket in tickets:
                self._prefill([answer for answer in batch if answer.ticket is ticket])
            return
        with self._failing(batch):
            self._choose(group, logits)
            self._merge(group)

    def _start(self, tickets: list[Ticket], batch: list[Answer]) -> tuple[Group, Tensor]:
        adapter = tickets[0].request.adapter
        prompts = [ticket.request.prompt_ids for ticket in tickets]
        self.runner.use(adapter)
        logits, cache = self.runner.prefill(prompts)
        self.counts['prompt_tokens'] += sum(map(len, prompts))
        rows = [tickets.index(answer.ticket) for answer in batch]
        if rows != list(range(len(tickets))):  # several answers from one prompt
            kv.select(cache, rows, self.runner.device)
            logits = logits[rows]
        return Group(adapter, cache, batch, [len(prompts[row]) for row in rows]), logits

    def _decode(self, group: Group) -> None:
        self.runner.use(group.adapter)
        logits = self.runner.decode([answer.last for answer in group.answers], group.lengths, group.cache)
        group.lengths = [length + 1 for length in group.lengths]
        self._choose(group, logits)

    def _choose(self, group: Group, logits: Tensor) -> None:
        """Draw a token for every row and drop the rows that ended."""
        healthy = logits.amax(-1).isfinite().tolist()  # NaN and +inf show in the maximum
        tokens, logprobs = choose(logits, [answer.draw for answer in group.answers], self._generator)
        self.counts['answer_tokens'] += len(tokens)
        ended: set[Answer] = set()
        for answer, token, logprob, sound in zip(group.answers, tokens, logprobs, healthy, strict=True):
            with self._failing([answer]):
                if not sound:
                    raise NumericalError('the model gave logits that are not finite; look at its weights and dtype')
                if not answer.ticket.closed and not answer.accept(token, logprob):
                    ended.add(answer)
                    self._end(answer)
        self._keep_open(group, ended)

    def _end(self, answer: Answer) -> None:
        answer.ticket.answers.remove(answer)
        if not answer.ticket.answers:
            self._close(answer.ticket, 'finished')

    @contextlib.contextmanager
    def _failing(self, answers: list[Answer]) -> Iterator[None]:
        """What goes wrong inside ends the requests of ``answers`` and no others."""
        try:
            yield
        except WaiterGone:
            for answer in answers:
                self.abort(answer.ticket.request.id)
        except Exception as error:
            for answer in answers:
                self.fail(answer.ticket, _explained(error))

    # ------------------------------------------------------------------------------------------------------- rows
    def _keep_open(self, group: Group, ended: AbstractSet[Answer] = frozenset()) -> None:
        """Take the rows of answers that ended, failed or were aborted out of the cache."""
        rows = [i for i, answer in enumerate(group.answers) if not answer.ticket.closed and answer not in ended]
        if len(rows) == len(group.answers):
            return
        width = max(group.lengths)
        group.answers = [group.answers[i] for i in rows]
        group.lengths = [group.lengths[i] for i in rows]
        if rows:
            kv.select(group.cache, rows, self.runner.device)
            kv.trim(group.cache, width - max(group.lengths))

    def _merge(self, group: Group) -> None:
        """Let a new group run with the others of its adapter, if their caches can be joined."""
        if not group.answers:
            return
        for other in self.groups:
            if other.adapter == group.adapter and self.runner.joinable:
                kv.join(other.cache, group.cache)
                other.answers += group.answers
                other.lengths += group.lengths
                return
        self.groups.append(group)


def _explained(error: Exception) -> Exception:
    """The same error, or one that says what to do about it."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f'no memory left for this batch ({error}); lower --max_batch_size or --max_length')
    return error
