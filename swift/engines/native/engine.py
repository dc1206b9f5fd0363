"""The native engine: answers with any causal LM of transformers, many requests at a time.

One thread owns the model; callers talk to it through a queue. ``submit`` gives an asynchronous iterator, ``stream`` a
plain one. Whatever goes wrong is raised where the answer is awaited; a dead engine refuses requests and says why.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swift.core.errors import ModelError, RequestError, SwiftError, did_you_mean
from swift.core.types import Eye, Request, Sampling
from swift.engines.grammar import Grammars
from swift.engines.native.answer import Ticket
from swift.engines.native.looking import Looking
from swift.engines.native.runner import Runner
from swift.engines.native.scheduler import Limits, Scheduler
from swift.engines.native.worker import Worker
from swift.engines.waiting import Deliver, Waiting
from swift.kernels import cores


class NativeEngine(Waiting):
    """Implements ``core.types.Engine``.

    Args:
        model: In memory, on its device; wrapped by peft or not.
        decode: Text of token ids, without control tokens.
        stop_ids: Tokens that end every answer.
        limits: Sizes of the batch and of the context.
        tokenizer: Of transformers; without it no request can ask for a grammar.
        eye: Of a model that takes pictures; without it no request can have any.
        guessing: Verify guessed tokens in rows that would be empty; answers are the same without.
        seed: Makes requests without a seed repeatable if they come in the same order; None draws afresh.

    Raises:
        ModelError: the architecture cannot decode with a cache.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Iterable[int] = (),
        limits: Limits,
        tokenizer: Any = None,
        eye: Eye | None = None,
        seed: int | None = None,
        guessing: bool = True,
    ):
        runner = Runner(model)
        generator = torch.Generator(runner.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        self._scheduler = Scheduler(
            runner,
            decode=decode,
            stop_ids=frozenset(stop_ids),
            limits=limits,
            generator=generator,
            fast=True,
            guessing=guessing,
        )
        self._grammars = None if tokenizer is None else Grammars(tokenizer, runner.vocabulary)
        self._looking = None if eye is None else Looking(eye)
        cores.rest()
        self._worker = Worker(self._scheduler)
        self._dropped = weakref.finalize(self, _stop_quietly, self._worker)  # frees the model

    # --------------------------------------------------------------------------------------------------- requests
    def begin(self, request: Request, deliver: Deliver) -> None:
        """Queue a request. Raises RequestError when it is not valid, SwiftError when the engine is closed or dead."""
        check(request, self._scheduler)
        scheduler, worker = self._scheduler, self._worker
        parts = self._parts(request)
        added = worker.call(lambda: scheduler.add(request, deliver, held=len(parts)))
        added.add_done_callback(lambda future: future.exception() and deliver(future.exception()))
        for begin, give in parts:
            made = begin()  # the other requests go on
            made.add_done_callback(
                lambda made, give=give: _call(worker, lambda: scheduler.release(added.result(), made, give))
            )

    def _parts(self, request: Request) -> list[tuple[Callable[[], Future], Callable[[Ticket, Any], None]]]:
        """What has to be made for a request before it is read: how that is begun, and who is given it."""
        parts: list[tuple[Callable[[], Future], Callable[[Ticket, Any], None]]] = []
        if (grammar := request.sampling.grammar) is not None:
            if (grammars := self._grammars) is None:
                raise RequestError('this engine has no tokenizer to follow a grammar with', param='response_format')
            parts.append((lambda: grammars.begin(grammar), Ticket.constrain))
        if request.pictures:
            if (looking := self._looking) is None:
                raise RequestError('this model takes text alone; send no pictures', param='messages')
            parts.append((lambda: looking.begin(request), Ticket.look))
        return parts

    def abort(self, id: str) -> None:
        """End a request at the next step: its open answers finish with ``abort``. Unknown ids are fine."""
        self._worker.call(lambda: self._scheduler.abort(id))

    # ---------------------------------------------------------------------------------------------------- weights
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite weights between two steps; answers under way go on with the new ones.

        Raises:
            ModelError: a name or shape is not the model's; the weights before it are overwritten.
        """
        self._worker.call(lambda: self._scheduler.update(weights)).result()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that requests can give as their adapter."""
        return self._scheduler.runner.adapters

    def load_adapter(self, name: str, path: Path) -> None:
        """Put the peft adapter in ``path`` beside the others. Raises ModelError."""
        self._worker.call(lambda: self._scheduler.load_adapter(name, path)).result()

    def unload_adapter(self, name: str) -> None:
        """Take an adapter off. Raises ModelError, also while requests use it."""
        self._worker.call(lambda: self._unload(name)).result()

    def _unload(self, name: str) -> None:
        if users := self._scheduler.uses(name):
            raise ModelError(f'adapter {name!r} answers {users} requests; unload it when they have ended')
        self._scheduler.unload_adapter(name)

    # ------------------------------------------------------------------------------------------------------- life
    def stats(self) -> dict[str, float]:
        """Counters since the start (accepted = finished + aborted + failed + open), and what is going on now."""
        scheduler = self._scheduler
        return {
            **scheduler.counts,
            'open': len(scheduler.tickets),
            'running': scheduler.running,
            'waiting': scheduler.waiting,
            'kv_used': scheduler.kv_tokens[0],
            'kv_tokens': scheduler.kv_tokens[1],
            'step_age': time.monotonic() - scheduler.heartbeat if scheduler.busy else 0.0,
        }

    def close(self) -> None:
        """Abort what is open and end the thread. Raises HangError if it does not end."""
        _stop_quietly(self._worker)
        if self._looking is not None:
            self._looking.close()
        self._worker.wait()


def _call(worker: Worker, function: Callable[[], Any]) -> None:
    with contextlib.suppress(SwiftError):  # it has ended, and told every waiter
        worker.call(function)


def _stop_quietly(worker: Worker) -> None:
    with contextlib.suppress(SwiftError):  # it has ended before
        worker.ask_to_stop()


# ------------------------------------------------------------------------------------------------------ validation
MOST_BEAMS = 64
WITHOUT_BEAMS: dict[str, Any] = {  # what a search with beams leaves no choice in -> its only value
    'temperature': 0,
    'n': 1,
    'min_tokens': 0,
    'presence_penalty': 0,
    'frequency_penalty': 0,
    'logit_bias': (),
    'stop': (),
    'logprobs': None,
    'prompt_logprobs': None,
    'grammar': None,
}
RANGES: dict[str, tuple[Callable[[Sampling], bool], str]] = {
    'max_tokens': (lambda s: s.max_tokens >= 1, 'at least 1'),
    'min_tokens': (lambda s: 0 <= s.min_tokens <= s.max_tokens, '0 to max_tokens'),
    'temperature': (lambda s: 0 <= s.temperature < math.inf, '0 (greedy) or more'),
    'top_k': (lambda s: s.top_k >= -1, '1 or more; 0 or -1 for all'),
    'top_p': (lambda s: 0 < s.top_p <= 1, 'above 0, at most 1'),
    'min_p': (lambda s: 0 <= s.min_p <= 1, '0 to 1'),
    'repetition_penalty': (lambda s: 0 < s.repetition_penalty < math.inf, 'above 0'),
    'presence_penalty': (lambda s: math.isfinite(s.presence_penalty), 'a finite number'),
    'frequency_penalty': (lambda s: math.isfinite(s.frequency_penalty), 'a finite number'),
    'logit_bias': (lambda s: all(math.isfinite(value) for _, value in s.logit_bias), 'finite numbers by token'),
    'seed': (lambda s: s.seed is None or 0 <= s.seed < 2**63, '0 or more, below 2**63'),
    'logprobs': (lambda s: s.logprobs is None or s.logprobs >= 0, '0 or more'),
    'n': (lambda s: s.n >= 1, 'at least 1'),
    'num_beams': (lambda s: 1 <= s.num_beams <= MOST_BEAMS, f'1 to {MOST_BEAMS}'),
    'length_penalty': (lambda s: math.isfinite(s.length_penalty), 'a finite number'),
}


def check(request: Request, scheduler: Scheduler) -> None:
    """Refuse what could not be answered, before it meets other requests in a batch. Raises RequestError."""
    for name, (valid, wanted) in RANGES.items():
        if not valid(request.sampling):
            raise RequestError(f'{name} is {getattr(request.sampling, name)!r}; it must be {wanted}', param=name)
    if request.sampling.num_beams > 1:
        for name, only in WITHOUT_BEAMS.items():
            if (value := getattr(request.sampling, name)) != only:
                beams = f'num_beams {request.sampling.num_beams}'
                raise RequestError(
                    f'{beams} with {name} {value!r}: a search with beams has {name} {only!r} only; leave one out',
                    param=name,
                )
        if request.pictures:
            raise RequestError('num_beams: a search with beams reads no pictures yet', param='num_beams')
    ids, longest = request.prompt_ids, scheduler.limits.max_model_len - 1
    if not ids:
        raise RequestError('the prompt is empty', param='prompt')
    if len(ids) > longest:
        raise RequestError(
            f'the prompt has {len(ids)} tokens; with room for one token of answer the model takes {longest}. '
            'Shorten it, or raise --max_model_len if the model allows',
            param='prompt',
        )
    vocabulary = scheduler.runner.vocabulary
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise RequestError(f'the prompt has token ids outside 0 to {vocabulary - 1}', param='prompt')
    if not all(0 <= id < vocabulary for id, _ in request.sampling.logit_bias):
        raise RequestError(f'logit_bias has token ids outside 0 to {vocabulary - 1}', param='logit_bias')
    known = scheduler.runner.adapters
    if request.adapter is not None and request.adapter not in known:
        raise RequestError(
            f'adapter {request.adapter!r} is not loaded{did_you_mean(request.adapter, known)} '
            f'Loaded: {", ".join(known) or "none"}',
            param='adapter',
        )
