"""Answers as rows of one pass: each step feeds every running answer its next token, and parts of prompts that wait.

Keys and values lie in pages, so that nothing is padded or copied when answers come and go; equal beginnings share their
pages; where pages run out, the youngest answer gives its own back and is read again later. A pass computes rows in
sixteens: rows that would be empty carry guesses, tokens that followed the last two when they were there before, and as
many of them are kept as are what the answer would have drawn anyway.

    waiting --pages--> reading the prompt, in chunks --fork--> one run for each answer --a step a token--> ended
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from swift.core.errors import OutOfMemory
from swift.engines.native.answer import Answer, Ticket
from swift.engines.native.packed_runner import Chunk, PackedRunner
from swift.engines.native.paged_runner import PagedRunner
from swift.engines.native.pages import Pages
from swift.engines.native.sample import prompt_logprobs
from swift.kernels.cores import Cores
from swift.kernels.decoder import PAGE, ROWS, up

READING = 512  # rows of a step: how long running answers wait for prompts that are read
GUESSES = 8  # most guesses for an answer in one step
SEEING = 128  # rows of a step where every row's logits are asked for


@dataclass(eq=False)
class Run:
    """Tokens whose next one is wanted: a prompt for several answers, or an answer under way.

    ``ids`` all tokens; ``read`` those that have keys and values; ``pages`` where they lie; ``shared`` pages that can be
    found by others, the last of which is called ``name``; ``reach`` the length that rotary angles are chosen by (see
    ``kernels.angles``): the prompt's, and behind it each token's own.
    """

    answers: list[Answer]
    ids: list[int]
    reach: int
    read: int = 0
    pages: list[int] = field(default_factory=list)
    shared: int = 0
    name: int = 0
    alone: bool = False  # computed by weights that others no longer have
    seen: dict[tuple[int, int], int] = field(default_factory=dict)  # a pair of tokens -> what followed, last time
    noted: int = 0  # tokens whose pairs are in ``seen``
    table: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # ``pages`` as the kernel reads them

    @property
    def ticket(self) -> Ticket:
        return self.answers[0].ticket

    @property
    def adapter(self) -> str | None:
        return self.ticket.request.adapter

    @property
    def asks_about_prompt(self) -> bool:
        """Whether log-probabilities of its prompt are still to be told."""
        wanted = self.ticket.request.sampling.prompt_logprobs is not None
        return wanted and any(each.index == 0 and each.count == 0 for each in self.answers)

    def guess(self, count: int) -> list[int]:
        """What followed when the last two tokens were there before."""
        for at in range(max(self.noted, 2), len(self.ids)):
            self.seen[self.ids[at - 2], self.ids[at - 1]] = at
        self.noted = len(self.ids)
        at = self.seen.get((self.ids[-2], self.ids[-1])) if len(self.ids) > 1 else None
        return [] if at is None else self.ids[at : at + count]


@dataclass(slots=True)
class Work:
    """What a run does in one pass: read ``count`` tokens, and guesses after them."""

    run: Run
    count: int
    guesses: list[int] = field(default_factory=list)
    rows: int = 0  # of logits

    @property
    def whole(self) -> bool:
        """Whether all its tokens are read then."""
        return self.run.read + self.count == len(self.run.ids)


class Desk(Protocol):
    """What answers need of the scheduler."""

    counts: dict[str, int]

    def choose(self, answers: Sequence[Answer], logits: Tensor) -> list[int | None]: ...
    def fail(self, ticket: Ticket, error: BaseException) -> None: ...


class Packed:
    """Runs that share passes. ``guessing`` False leaves guesses out."""

    def __init__(self, desk: Desk, runner: PackedRunner | PagedRunner, *, guessing: bool = True):
        self._desk, self.runner, self._guessing = desk, runner, guessing
        self.pages = Pages(runner.page_count, PAGE)
        self._cores = Cores()
        self._waiting: deque[Run] = deque()
        self._runs: list[Run] = []
        self._version = 0
        self._moving = runner.moving

    @property
    def running(self) -> int:
        """Answers that hold pages."""
        return sum(len(run.answers) for run in self._runs)

    @property
    def waiting(self) -> int:
        """Answers that hold none yet."""
        return sum(len(run.answers) for run in list(self._waiting))  # others ask, while the engine's thread goes on

    @property
    def busy(self) -> bool:
        return bool(self._runs or self._waiting)

    def add(self, answers: Sequence[Answer]) -> None:
        """Queue the answers of one request."""
        prompt = answers[0].ticket.request.prompt_ids
        self._waiting.append(Run(list(answers), list(prompt), len(prompt)))

    def clear(self) -> None:
        """Forget everything: its requests have ended."""
        for run in self._runs:
            self.pages.drop(run.pages)
        self._runs.clear()
        self._waiting.clear()

    def refresh(self) -> None:
        """The weights have changed: what was computed before serves no new request."""
        self.runner.refresh()
        self.pages.forget_all()
        self._version += 1
        for run in [*self._runs, *self._waiting]:
            run.alone = True

    def step(self, room: int) -> None:
        """One pass; at most ``room`` more answers begin."""
        for run in [run for run in self._runs if not self._open(run)]:
            self._end(run)
        self._admit(room)
        work = self._plan()
        if work:
            self._pass(work)

    # -------------------------------------------------------------------------------------------------------- planning
    @staticmethod
    def _open(run: Run) -> bool:
        run.answers = [answer for answer in run.answers if not answer.ticket.closed]
        return bool(run.answers)

    def _admit(self, room: int) -> None:
        """Start runs that wait while there are pages for what they must read."""
        while self._waiting:
            run = self._waiting[0]
            if not self._open(run):
                self._waiting.popleft()
                continue
            tight = self.pages.room < up(len(run.ids) + 1, PAGE) // PAGE + len(self._runs)
            if room < 1 or (tight and self._runs):
                return
            self._waiting.popleft()
            if len(run.answers) > room:
                self._waiting.appendleft(Run(run.answers[room:], list(run.ids), run.reach))
                run.answers = run.answers[:room]
            room -= len(run.answers)
            self._begin(run)

    def _begin(self, run: Run) -> None:
        kind = 0 if self._moving is None else self._moving.kind(run.reach)
        run.name, run.alone = self.pages.root((self._version, run.adapter, kind)), False
        if run.asks_about_prompt:
            self._telling(run).prompt_logprobs = []
        else:
            run.pages, run.name = self.pages.find(run.name, run.ids[:-1])
        run.read, run.shared = len(run.pages) * PAGE, len(run.pages)
        run.table = np.array(run.pages, np.int32)
        self._desk.counts['prompt_tokens'] += len(run.ids)
        self._desk.counts['cached_tokens'] += run.read
        self._runs.append(run)

    def _plan(self) -> list[Work]:
        """What goes through the model now: next tokens of all, then prompts in their order."""
        ready = [Work(run, 1) for run in self._runs if len(run.ids) - run.read == 1 and not run.asks_about_prompt]
        budget = max(ROWS, READING - len(ready))
        for run in self._runs:
            left = len(run.ids) - run.read
            if (left > 1 or run.asks_about_prompt) and budget > 0:
                count = min(left, budget, SEEING if run.asks_about_prompt else budget)
                ready.append(Work(run, count))
                budget -= count
        if self._guessing:
            self._guess(ready)
        work = [each for each in ready if self._make_room(each)]
        work = [each for each in work if each.run in self._runs]  # some may have given their pages to others
        return sorted(work, key=lambda each: each.run.adapter or '')

    def _guess(self, work: list[Work]) -> None:
        """Fill the rows that would be empty."""
        if len({each.run.adapter for each in work}) != 1 or any(each.count > 1 for each in work):
            return
        spare = -len(work) % ROWS
        for at, each in enumerate(work):
            answer = each.run.answers[0]
            most = min(GUESSES, -(-spare // (len(work) - at)), answer.limit - answer.count - 1)
            each.guesses = each.run.guess(most) if most > 0 else []
            spare -= len(each.guesses)

    def _make_room(self, work: Work) -> bool:
        """Take the pages that the run needs. Returns whether it has them."""
        run = work.run
        if run not in self._runs:
            return False
        needed = up(run.read + work.count + len(work.guesses), PAGE) // PAGE
        if len(run.pages) >= needed:
            return True
        while len(run.pages) < needed:
            if self.pages.room:
                run.pages.append(self.pages.take())
            elif self._runs[-1] is not run:
                self._put_back(self._runs[-1])
            elif len(self._runs) > 1:
                self._put_back(run)
                return False
            else:
                self._desk.fail(
                    run.ticket,
                    OutOfMemory(
                        f'{len(run.ids)} tokens need more than the {self.pages.count * PAGE} that keys and values have '
                        'room for; raise --max_kv_tokens'
                    ),
                )
                self._end(run)
                return False
        run.table = np.array(run.pages, np.int32)
        return True

    def _put_back(self, run: Run) -> None:
        """Give up a run's pages; it is read again when there is room."""
        self._end(run)
        run.read = run.shared = 0
        self._waiting.appendleft(run)

    def _end(self, run: Run) -> None:
        self._runs.remove(run)
        self.pages.drop(run.pages)
        run.pages = []

    # --------------------------------------------------------------------------------------------------------- passing
    def _pass(self, work: list[Work]) -> None:
        """A pass that fails is tried for each run alone, so that only the guilty one ends."""
        try:
            self._cores.share()
            logits = self.runner.forward([self._chunk(each) for each in work])
        except Exception as error:
            if len(work) > 1:
                for each in work:
                    self._pass([each])
                return
            self._desk.fail(work[0].run.ticket, error)
            self._end(work[0].run)
            return
        row = 0
        ready: list[tuple[Run, int, list[int]]] = []
        for each in work:
            run, first = each.run, row
            row += each.rows
            run.read += each.count
            if run.asks_about_prompt:
                self._tell_prompt(run, logits[first:row])
            self._share(run)
            if run.read == len(run.ids):
                first = row - 1 - len(each.guesses)
                ready += [(fork, first, each.guesses) for fork in self._fork(run)]
        self._draw(ready, logits)

    def _chunk(self, work: Work) -> Chunk:
        run = work.run
        if run.asks_about_prompt:
            work.rows = work.count
        else:
            work.rows = 1 + len(work.guesses) if work.whole else 0
        ids = run.ids[run.read : run.read + work.count] + work.guesses
        return Chunk(ids, run.read, run.table, run.adapter, work.rows, run.reach)

    def _tell_prompt(self, run: Run, logits: Tensor) -> None:
        """Log-probabilities of the tokens that follow those just read."""
        start = run.read - len(logits)
        targets = run.ids[start + 1 : run.read + 1]
        count = run.ticket.request.sampling.prompt_logprobs
        self._telling(run).prompt_logprobs += prompt_logprobs(logits[: len(targets)], targets, count or 0)

    @staticmethod
    def _telling(run: Run) -> Answer:
        """The answer that tells of the prompt."""
        return next(each for each in run.answers if each.index == 0)

    def _share(self, run: Run) -> None:
        """Let full pages be found by others."""
        while not run.alone and (run.shared + 1) * PAGE <= run.read:
            start = run.shared * PAGE
            run.name = self.pages.remember(run.name, run.ids[start : start + PAGE], run.pages[run.shared])
            run.shared += 1

    def _fork(self, run: Run) -> list[Run]:
        """A run for each answer. They hold the full pages together, and have each its own copy of the last one."""
        forks = [run]
        full = run.read // PAGE
        for answer in run.answers[1:]:
            for page in run.pages[:full]:
                self.pages.hold(page)
            pages = run.pages[:full]
            fork = Run([answer], list(run.ids), run.reach, run.read, pages, min(run.shared, full), run.name, run.alone)
            self._runs.append(fork)
            if run.read % PAGE:
                if not self.pages.room:
                    self._put_back(fork)
                    continue
                pages.append(self.pages.take())
                self.runner.copy_page(run.pages[full], pages[-1])
            fork.table = np.array(pages, np.int32)
            forks.append(fork)
        run.answers = run.answers[:1]
        return forks

    def _draw(self, ready: list[tuple[Run, int, list[int]]], logits: Tensor) -> None:
        """A token for each run, and one more for as long as they are what was guessed."""
        while ready:
            rows = [row for _, row, _ in ready]
            part = logits if rows == list(range(len(logits))) else logits[torch.tensor(rows)]
            tokens = self._desk.choose([run.answers[0] for run, _, _ in ready], part)
            going: list[tuple[Run, int, list[int]]] = []
            for (run, row, guesses), token in zip(ready, tokens, strict=True):
                if token is None:
                    self._end(run)
                    continue
                run.ids.append(token)
                if self._moving is not None and self._moving.passed(run.reach, len(run.ids)):
                    run.reach = len(run.ids)
                    self._put_back(run)
                    continue
                if guesses and guesses[0] == token:
                    self._desk.counts['guessed_tokens'] += 1
                    run.read += 1
                    self._share(run)
                    going.append((run, row + 1, guesses[1:]))
            ready = going
