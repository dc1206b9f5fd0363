"""Answers as rows of a batch that is padded at the left, by the model's own forward pass: for every architecture.

Answers with the same adapter run as one group with one KV cache; one step prefills one batch of waiting prompts and
then gives every running answer a token.

    waiting --prefill--> group (adapter, cache, answers) --decode, one token a step--> ended
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers.cache_utils import Cache

from swift.core.errors import RequestError
from swift.engines.native import cache as kv
from swift.engines.native.answer import Answer, Ticket
from swift.engines.native.runner import Runner
from swift.engines.native.sample import prompt_logprobs


@dataclass(eq=False)
class Group:
    """Answers that decode together: the rows of one cache."""

    adapter: str | None
    cache: Cache
    answers: list[Answer]
    lengths: list[int]  # tokens of each row in the cache


class Desk(Protocol):
    """What answers need of the scheduler."""

    counts: dict[str, int]

    def choose(self, answers: Sequence[Answer], logits: Tensor) -> list[int | None]: ...
    def fail(self, ticket: Ticket, error: BaseException) -> None: ...


class Padded:
    """Groups of rows.

    Args:
        most_prompt_tokens: padding included, of prompts that are read together.
        most_tokens: held in all caches when one more answer begins; None for no bound. One alone always begins.
    """

    def __init__(
        self, desk: Desk, runner: Runner, *, most_prompt_tokens: int, most_passed: int, most_tokens: int | None
    ):
        self._desk, self.runner = desk, runner
        self._most_prompt_tokens, self._most_passed = most_prompt_tokens, most_passed
        self._most_tokens = most_tokens
        self._waiting: deque[Answer] = deque()
        self.groups: list[Group] = []

    @property
    def running(self) -> int:
        """Answers that have a row in a cache."""
        return sum(len(group.answers) for group in self.groups)

    @property
    def waiting(self) -> int:
        """Answers that have none yet."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Tokens that caches have room for, padding included. Any thread may ask, also when a group has just ended."""
        rows = [group.lengths for group in self.groups]
        return sum(max(lengths, default=0) * len(lengths) for lengths in rows)

    @property
    def busy(self) -> bool:
        return bool(self.groups or self._waiting)

    def add(self, answers: Sequence[Answer]) -> None:
        """Queue the answers of one request."""
        self._waiting.extend(answers)

    def clear(self) -> None:
        """Forget everything: its requests have ended."""
        self._waiting.clear()
        self.groups.clear()

    def step(self, room: int) -> None:
        """Prefill one batch of at most ``room`` answers, then one token for every running answer."""
        for group in self.groups:
            self._keep(group, [not answer.ticket.closed for answer in group.answers])
        self.groups = [group for group in self.groups if group.answers]
        running = list(self.groups)
        if batch := self._next_batch(room):
            self._prefill(batch)
        passing = [answer for group in running for answer in self._take_passing(group)]
        for group in running:
            if group.answers:
                self._decode(group)
        for answer in passing:
            self._read_again(answer)

    def _next_batch(self, room: int) -> list[Answer]:
        """The waiting answers to prefill together: one adapter, within the room for rows and for prompt tokens."""
        batch: list[Answer] = []
        prompts: set[Ticket] = set()
        tokens = self.held
        passed: list[Answer] = []  # they wait for a batch of their own kind; the first of the queue always goes
        while self._waiting and len(batch) < room and len(passed) < self._most_passed:
            answer = self._waiting.popleft()
            if answer.ticket.closed:
                continue
            more = tokens + len(answer.ticket.request.prompt_ids)
            if self._most_tokens is not None and more > self._most_tokens and (batch or self.groups):
                self._waiting.appendleft(answer)
                break
            if not batch or self._fits(answer, batch[0], prompts):
                tokens = more
                batch.append(answer)
                prompts.add(answer.ticket)
            else:
                passed.append(answer)
        self._waiting.extendleft(reversed(passed))
        return batch

    def _fits(self, answer: Answer, first: Answer, prompts: set[Ticket]) -> bool:
        if answer.ticket in prompts:
            return True
        ours, theirs = answer.ticket.request, first.ticket.request
        if ours.pictures or theirs.pictures:  # read by themselves; they decode with the others
            return False
        if ours.adapter != theirs.adapter or not self.runner.joinable:
            return False
        if not self.runner.pads_prompts and len(ours.prompt_ids) != len(theirs.prompt_ids):
            return False
        widest = max(len(ours.prompt_ids), *(len(ticket.request.prompt_ids) for ticket in prompts))
        return widest * (len(prompts) + 1) <= self._most_prompt_tokens

    def _prefill(self, batch: list[Answer]) -> None:
        """First tokens. If prompts fail together, each is tried alone, so that only the guilty one ends."""
        tickets = list(dict.fromkeys(answer.ticket for answer in batch))
        try:
            group, logits = self._start(tickets, batch)
        except Exception as error:
            if len(tickets) == 1:
                return self._desk.fail(tickets[0], error)
            for ticket in tickets:
                self._prefill([answer for answer in batch if answer.ticket is ticket])
            return
        self._choose(group, logits)
        self._merge(group)

    def _start(self, tickets: list[Ticket], batch: list[Answer]) -> tuple[Group, Tensor]:
        adapter = tickets[0].request.adapter
        prompts = [ticket.request.prompt_ids for ticket in tickets]
        self.runner.use(adapter)
        for answer in batch:
            self._tell_prompt(answer)
        if tickets[0].seen is None:
            logits, cache = self.runner.prefill(prompts)
        else:
            logits, cache, tickets[0].shift = self.runner.see(prompts[0], tickets[0].seen)
            tickets[0].seen = None
        self._desk.counts['prompt_tokens'] += sum(map(len, prompts))
        rows = [tickets.index(answer.ticket) for answer in batch]
        if rows != list(range(len(tickets))):  # several answers from one prompt
            kv.select(cache, rows, self.runner.device)
            logits = logits[rows]
        return Group(adapter, cache, batch, [len(prompts[row]) for row in rows]), logits

    def _tell_prompt(self, answer: Answer) -> None:
        """Log-probabilities of the prompt, where asked for: they take a pass of their own."""
        request = answer.ticket.request
        if answer.index == 0 and request.sampling.prompt_logprobs is not None:
            logits = self.runner.read(request.prompt_ids, answer.ticket.seen)[:-1]
            answer.prompt_logprobs = prompt_logprobs(logits, request.prompt_ids[1:], request.sampling.prompt_logprobs)

    def _take_passing(self, group: Group) -> list[Answer]:
        """Take out the answers whose next token changes the rotary angles of all (see ``kernels.angles``)."""
        moving = self.runner.moving
        passing = [moving is not None and moving.passed(length, length + 1) for length in group.lengths]
        taken = [answer for answer, passes in zip(group.answers, passing, strict=True) if passes]
        self._keep(group, [not passes for passes in passing])
        return taken

    def _read_again(self, answer: Answer) -> None:
        """Give an answer that was taken out a cache anew, and its next token."""
        request = answer.ticket.request
        ids = [*request.prompt_ids, *answer.said]
        try:
            if request.pictures:
                raise RequestError('with pictures this model answers up to its original length only', param='messages')
            self.runner.use(request.adapter)
            logits, cache = self.runner.prefill([ids])
        except Exception as error:
            return self._desk.fail(answer.ticket, error)
        self._desk.counts['prompt_tokens'] += len(ids)
        group = Group(request.adapter, cache, [answer], [len(ids)])
        self._choose(group, logits)
        self._merge(group)

    def _decode(self, group: Group) -> None:
        try:
            self.runner.use(group.adapter)
            tokens = [answer.said[-1] for answer in group.answers]
            shifts = [answer.ticket.shift for answer in group.answers]
            logits = self.runner.decode(tokens, group.lengths, group.cache, shifts)
        except Exception as error:
            for answer in group.answers:
                self._desk.fail(answer.ticket, error)
            return
        group.lengths = [length + 1 for length in group.lengths]
        self._choose(group, logits)

    def _choose(self, group: Group, logits: Tensor) -> None:
        """A token for every row; the rows that ended go."""
        self._keep(group, [token is not None for token in self._desk.choose(group.answers, logits)])

    def _keep(self, group: Group, going: Sequence[bool]) -> None:
        """Take the rows of answers that ended, failed or were aborted out of the cache."""
        rows = [i for i, goes in enumerate(going) if goes]
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
            if other.answers and other.adapter == group.adapter and self.runner.joinable:
                kv.join(other.cache, group.cache)
                other.answers += group.answers
                other.lengths += group.lengths
                return
        self.groups.append(group)
