"""Requests from arrival to end: who answers them, and what becomes of every token that is chosen.

``packed.py`` answers what the fast decoder computes, ``padded.py`` everything else; both ask ``choose`` here for the
next tokens. A failure ends the requests it belongs to and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from swift.core.errors import NumericalError, OutOfMemory, RequestError
from swift.core.types import Request
from swift.engines.native import memory
from swift.engines.native.answer import Answer, Deliver, Ticket, WaiterGone, open_ticket
from swift.engines.native.beams import Beams
from swift.engines.native.packed import Packed
from swift.engines.native.packed_runner import Misfit, PackedRunner
from swift.engines.native.padded import Padded
from swift.engines.native.paged_runner import PagedRunner
from swift.engines.native.runner import Runner
from swift.engines.native.sample import choose
from swift.kernels.angles import sees_lengths

logger = logging.getLogger(__name__)
T = TypeVar('T')
BESIDE = 4  # one token may be held in padded batches for so many that pages have room for


@dataclass(frozen=True)
class Limits:
    """Sizes that bound memory."""

    max_model_len: int  # tokens of prompt and answer together
    max_batch_size: int = 16  # answers that decode at once; more wait
    max_prefill_tokens: int = 4096  # tokens, padding included, of prompts that are read together without pages
    max_kv_tokens: int | None = None  # tokens whose keys and values are kept in pages; None: what memory allows


class Scheduler:
    """Owns the requests. Not thread-safe: the engine's thread calls everything here.

    ``fast`` False: only by the model's own forward pass, from the weights that it has.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: frozenset[int],
        limits: Limits,
        generator: torch.Generator,
        fast: bool = False,
        guessing: bool = True,
    ):
        self.runner = runner
        self.limits = limits
        if (why := sees_lengths(runner.base, limits.max_model_len)) is not None:
            logger.info('each request is answered alone: %s', why)
            runner.joinable = False
        self.tickets: dict[str, Ticket] = {}
        self.heartbeat = time.monotonic()  # when the last step ended
        self.counts: dict[str, int] = dict.fromkeys(
            (
                'accepted', 'finished', 'aborted', 'failed',
                'prompt_tokens', 'cached_tokens', 'answer_tokens', 'guessed_tokens', 'steps',
            ),
            0,
        )  # fmt: skip
        self._decode_ids = decode
        self._stop_ids = stop_ids
        self._generator = generator
        self._packed = self._pack(guessing) if fast else None
        self._padded = Padded(
            self,
            runner,
            most_prompt_tokens=limits.max_prefill_tokens,
            most_passed=limits.max_batch_size,
            most_tokens=limits.max_kv_tokens if self._packed is None else self._packed.pages.tokens // BESIDE,
        )
        self._beams = Beams(self, runner)
        self._lanes: list[Packed | Padded | Beams] = [self._padded, self._beams]
        if self._packed is not None:
            self._lanes.insert(0, self._packed)

    def _pack(self, guessing: bool) -> Packed | None:
        """The fast lane: by the kernel, else by the model's own layers, if the model is one that they compute."""
        limits = self.limits
        count = partial(
            memory.pages,
            device=self.runner.device,
            longest=limits.max_model_len,
            at_once=limits.max_batch_size,
            wanted=limits.max_kv_tokens,
        )
        for kind, instead in ((PackedRunner, "the model's own layers"), (PagedRunner, 'batches that are padded')):
            try:
                return Packed(self, kind(self.runner, longest=limits.max_model_len, pages=count), guessing=guessing)
            except Misfit as why:
                logger.info('answers by %s: %s', instead, why)
        return None

    # ------------------------------------------------------------------------------------------ arrivals and ends
    def add(self, request: Request, deliver: Deliver, *, held: int = 0) -> Ticket:
        """Take a request on and queue it, or leave that to so many calls of ``release``.

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
        ticket.held = held
        if not held:
            self._queue(ticket)
        return ticket

    def release(self, ticket: Ticket, made: Future[T], give: Callable[[Ticket, T], None]) -> None:
        """Give a held request what was made for it, or end it with what that failed with. The last one queues it."""
        with self._failing(ticket.answers):
            give(ticket, made.result())
        ticket.held -= 1
        if ticket.answers and not ticket.held:
            self._queue(ticket)

    def _queue(self, ticket: Ticket) -> None:
        request, packed = ticket.request, self._packed
        if request.sampling.num_beams > 1:
            return self._beams.add(ticket.answers)
        fast = packed is not None and not request.pictures and packed.runner.takes(request.adapter)
        lane = packed if packed is not None and fast else self._padded
        lane.add(ticket.answers)

    def abort(self, id: str) -> None:
        """End a request now; what it holds is free with the next step. Unknown or ended ids are fine."""
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
            self._close(ticket, 'failed', _explained(error))

    def fail_all(self, error: BaseException) -> None:
        """End everything: the engine cannot go on."""
        for ticket in list(self.tickets.values()):
            self.fail(ticket, error)
        for lane in self._lanes:
            lane.clear()

    def _close(self, ticket: Ticket, how: str, error: BaseException | None = None) -> None:
        self.counts[how] += 1
        del self.tickets[ticket.request.id]
        ticket.close(error)

    def uses(self, adapter: str) -> int:
        """How many requests need ``adapter``."""
        return sum(ticket.request.adapter == adapter for ticket in self.tickets.values())

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do, be it only to free what aborted requests held."""
        return any(lane.busy for lane in self._lanes)

    @property
    def running(self) -> int:
        """Answers under way."""
        return sum(lane.running for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Answers that wait for room."""
        return sum(lane.waiting for lane in self._lanes)

    @property
    def kv_tokens(self) -> tuple[int, int]:
        """Tokens that are held, in pages and beside them, and those that pages have room for; 0 without pages."""
        if self._packed is None:
            return 0, 0
        pages = self._packed.pages
        return pages.held * pages.size + self._padded.held, pages.tokens

    # ------------------------------------------------------------------------------------------------------- step
    def step(self) -> None:
        """A pass of every lane: new answers begin while there is room, and running ones get a token."""
        self.counts['steps'] += 1
        for lane in self._lanes:
            if lane.busy:
                lane.step(self.limits.max_batch_size - self.running)

    def choose(self, answers: Sequence[Answer], logits: Tensor) -> list[int | None]:
        """Draw the next token of each answer from its row of logits [B, V]. None: the answer has ended."""
        healthy = logits.amax(-1).isfinite().tolist()  # NaN and +inf show in the maximum
        tokens, logprobs = choose(logits, [answer.draw for answer in answers], self._generator)
        self.counts['answer_tokens'] += len(tokens)
        chosen: list[int | None] = [None] * len(tokens)
        for i, answer in enumerate(answers):
            with self._failing([answer]):
                if not healthy[i]:
                    raise NumericalError('the model gave logits that are not finite; look at its weights and dtype')
                if answer.ticket.closed:
                    continue
                if answer.accept(tokens[i], logprobs[i]):
                    chosen[i] = tokens[i]
                else:
                    self._end(answer)
        return chosen

    def say(self, answer: Answer, tokens: Sequence[int]) -> None:
        """Give an answer all its tokens at once."""
        self.counts['answer_tokens'] += len(tokens)
        with self._failing([answer]):
            for token in tokens:
                if not answer.accept(token, None):
                    return self._end(answer)

    def _end(self, answer: Answer) -> None:
        answer.ticket.answers.remove(answer)
        if not answer.ticket.answers:
            self._close(answer.ticket, 'finished')

    @contextlib.contextmanager
    def _failing(self, answers: Sequence[Answer]) -> Iterator[None]:
        """What goes wrong inside ends the requests of ``answers`` and no others."""
        try:
            yield
        except WaiterGone:
            for answer in answers:
                self.abort(answer.ticket.request.id)
        except Exception as error:
            for answer in answers:
                self.fail(answer.ticket, error)

    # ---------------------------------------------------------------------------------------------------- weights
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite weights. Raises ModelError; those before the wrong one are overwritten."""
        try:
            self.runner.update(weights)
        finally:
            if self._packed is not None:
                self._packed.refresh()

    def load_adapter(self, name: str, path: Path) -> None:
        """Put one more adapter on the model. Raises ModelError."""
        self.runner.load_adapter(name, path)
        if self._packed is not None and (why := self._packed.runner.learn(name)):
            logger.info('adapter %s answers by the plain forward pass of the model: %s', name, why)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ModelError."""
        self.runner.unload_adapter(name)
        if self._packed is not None:
            self._packed.runner.forget(name)


def _explained(error: BaseException) -> BaseException:
    """The same error, or one that says what to do about it."""
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(f'no memory left for this batch ({error}); lower --max_batch_size or --max_length')
    return error
