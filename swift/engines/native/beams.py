"""Beam search: of the answers that a search keeps, the likeliest whole one, as transformers' ``generate`` finds it.

A search is one answer. Its beams are the rows of one cache, by the model's own forward pass; a step lengthens each of
them by a token, and searches run one after the other.

Shapes: ``B`` beams, ``V`` vocabulary, ``K`` best continuations of all beams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from swift.core.errors import NumericalError
from swift.engines.native import cache as kv
from swift.engines.native.answer import Answer, Ticket
from swift.engines.native.runner import Runner

NEVER = -1e9  # the score of what must not be chosen


@dataclass
class Search:
    """What is known so far. ``open``: tokens of the B beams that go on, likeliest first; ``scores`` fp32 [B] their
    log-probabilities. ``found``: whole answers with their scores, the best B, best first.

    A score is the sum of log-probabilities over length ** ``length_penalty``.
    """

    beams: int
    length_penalty: float
    limit: int  # tokens
    ends: frozenset[int]
    open: list[list[int]] = field(default_factory=list)
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    found: list[tuple[float, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open = [[] for _ in range(self.beams)]
        self.scores = torch.full((self.beams,), NEVER)  # the beams are alike at first: one is enough
        self.scores[0] = 0.0

    def grow(self, logps: Tensor) -> list[int] | None:
        """Lengthen the beams by log-probabilities fp32 [B, V] on the CPU.

        Returns:
            The beam that each new one goes on from; None: the search has ended.
        """
        vocabulary = logps.shape[1]
        count = max(2, 1 + len(self.ends)) * self.beams  # so many that B of them go on
        best = (logps + self.scores[:, None]).flatten().topk(min(count, logps.numel()))
        length = len(self.open[0]) + 1
        going: list[tuple[float, int, int]] = []
        for rank, (score, at) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(at, vocabulary)
            if token not in self.ends and length < self.limit:
                going.append((score, beam, token))
            elif rank < self.beams:
                self.found.append((score / length**self.length_penalty, [*self.open[beam], token]))
        self.found = sorted(self.found, key=lambda each: -each[0])[: self.beams]
        if len(going) < self.beams:
            return None
        going = going[: self.beams]
        hope = going[0][0] / length**self.length_penalty
        if len(self.found) == self.beams and hope <= self.found[-1][0]:
            return None
        self.scores = torch.tensor([score for score, _, _ in going])
        self.open = [[*self.open[beam], token] for _, beam, token in going]
        return [beam for _, beam, _ in going]


@dataclass(eq=False)
class Running:
    """A search and the cache of its beams, which lacks their last tokens."""

    answer: Answer
    search: Search
    cache: Cache


class Desk(Protocol):
    """What searches need of the scheduler."""

    counts: dict[str, int]

    def say(self, answer: Answer, tokens: Sequence[int]) -> None: ...
    def fail(self, ticket: Ticket, error: BaseException) -> None: ...


class Beams:
    """Searches, one at a time."""

    def __init__(self, desk: Desk, runner: Runner):
        self._desk, self.runner = desk, runner
        self._waiting: deque[Answer] = deque()
        self._running: Running | None = None

    @property
    def running(self) -> int:
        """Answers that are searched for."""
        return int(self._running is not None)

    @property
    def waiting(self) -> int:
        """Answers that are not yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, answers: Sequence[Answer]) -> None:
        """Queue the answers of one request."""
        self._waiting.extend(answers)

    def clear(self) -> None:
        """Forget everything: its requests have ended."""
        self._waiting.clear()
        self._running = None

    def step(self, room: int) -> None:
        """One token more for every beam; ``room`` less than 1 lets no search begin."""
        if self._running is not None and self._running.answer.ticket.closed:
            self._running = None
        if self._running is None and room > 0 and self._waiting:
            answer = self._waiting.popleft()
            if not answer.ticket.closed:
                self._try(answer, self._begin)
        elif self._running is not None:
            self._try(self._running.answer, self._go_on)

    def _try(self, answer: Answer, part: Callable[[Answer], None]) -> None:
        """A part of a search; what goes wrong ends its request and no other."""
        try:
            part(answer)
        except Exception as error:
            self._running = None
            self._desk.fail(answer.ticket, error)

    def _begin(self, answer: Answer) -> None:
        request = answer.ticket.request
        sampling = request.sampling
        search = Search(sampling.num_beams, sampling.length_penalty, answer.limit, answer.stop_ids)
        self.runner.use(request.adapter)
        logits, cache = self.runner.prefill([request.prompt_ids])
        self._desk.counts['prompt_tokens'] += len(request.prompt_ids)
        kv.select(cache, [0] * search.beams, self.runner.device)
        self._running = Running(answer, search, cache)
        self._grow(self._running, logits.expand(search.beams, -1))

    def _go_on(self, answer: Answer) -> None:
        assert self._running is not None
        running, request, moving = self._running, answer.ticket.request, self.runner.moving
        self.runner.use(request.adapter)
        length = len(request.prompt_ids) + len(running.search.open[0]) - 1
        if moving is not None and moving.passed(length, length + 1):
            logits, running.cache = self.runner.prefill([[*request.prompt_ids, *each] for each in running.search.open])
        else:
            lasts = [each[-1] for each in running.search.open]
            logits = self.runner.decode(lasts, [length] * len(lasts), running.cache)
        self._grow(running, logits)

    def _grow(self, running: Running, logits: Tensor) -> None:
        """Lengthen the beams, or tell the answer."""
        if not bool(logits.amax(-1).isfinite().all()):
            raise NumericalError('the model gave logits that are not finite; look at its weights and dtype')
        search, request = running.search, running.answer.ticket.request
        logps = logits.float().log_softmax(-1).cpu()
        if (penalty := request.sampling.repetition_penalty) != 1:
            for row, tokens in zip(logps, search.open, strict=True):
                said = torch.tensor(sorted({*request.prompt_ids, *tokens}))
                row[said] = torch.where(row[said] < 0, row[said] * penalty, row[said] / penalty)
        parents = search.grow(logps)
        if parents is None:
            self._running = None
            self._desk.say(running.answer, search.found[0][1])
        else:
            kv.select(running.cache, parents, self.runner.device)
