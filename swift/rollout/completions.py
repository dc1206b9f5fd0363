"""Steps of rows whose completions are written anew, by the student or by its teacher, just before they are trained on.

A source around a source: the loop asks for the next step when the one before has moved the weights, and that is when
its completions are written. Who writes a step, and what is drawn, are pure functions of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swift.core.types import Batch, Encoded, Origin, Request, Sampling, Source
from swift.data import mix
from swift.data.collate import collate, micro_batches
from swift.objectives.distill import OWN

Write = Callable[[Sequence[Request]], list[tuple[int, ...]]]
"""Prompts to completions, ids with the stop token."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How completions are written.

    ``share`` of the steps are the student's (the paper's lambda). ``max_length`` bounds prompt and completion together.
    ``max_tokens`` of a micro-batch, where one has a bound.
    """

    share: float
    sampling: Sampling
    max_length: int
    seed: int
    max_tokens: int | None = None


class Rewritten:
    """``core.types.Source``: the steps of ``source``, with completions of the ``student`` in some.

    A completion stands in place of everything from the first token on that carries loss. The other steps are the
    ``teacher``'s, or stay as they are without one. arXiv 2306.13649, algorithm 1.
    """

    def __init__(self, source: Source, rules: Rules, *, student: Write, teacher: Write | None = None):
        self._source, self._rules = source, rules
        self._student, self._teacher = student, teacher
        self._step, self.epoch = 0, source.epoch

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[list[Batch]]:
        for micro in self._source:
            self._step, self.epoch = self._step + 1, self._source.epoch
            own = mix.uniform(1, mix.AUTHOR, self._rules.seed, self._step)[0] < self._rules.share
            write = self._student if own else self._teacher
            yield micro if write is None else self._written(micro, write, own=bool(own))

    def _written(self, micro: list[Batch], write: Write, *, own: bool) -> list[Batch]:
        """The step with completions by ``write``, in micro-batches of their new lengths."""
        parts = [_rows(batch) for batch in micro]
        rows = [row for part in parts for row in part]
        prompts = [_prompt(row) for row in rows]
        found = iter(write(self._requests([prompt for prompt in prompts if len(prompt)])))
        made = [
            _completed(row, prompt, next(found)) if len(prompt) else row
            for row, prompt in zip(rows, prompts, strict=True)
        ]
        if self._rules.max_tokens is not None:
            order = np.argsort([place for batch in micro for place in batch.places], kind='stable')
            batches = micro_batches([[made[i] for i in order]], 1, self._rules.max_tokens)
        else:
            each = iter(made)
            batches = [
                collate([next(each) for _ in part], batch.places) for part, batch in zip(parts, micro, strict=True)
            ]
        for batch in batches:
            batch.streams[OWN] = (batch.weight != 0) & own
        return batches

    def _requests(self, prompts: list[np.ndarray]) -> list[Request]:
        rules, seeds = self._rules, mix.bits(len(prompts), mix.DRAWS, self._rules.seed, self._step)
        return [
            Request(
                str(i),
                tuple(prompt.tolist()),
                replace(
                    rules.sampling,
                    max_tokens=min(rules.sampling.max_tokens, rules.max_length - len(prompt)),
                    seed=int(seeds[i] >> np.uint64(1)),
                ),
            )
            for i, prompt in enumerate(prompts)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {'step': self._step, 'source': self._source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._source.load_state_dict(state['source'])
        self._step, self.epoch = state['step'], self._source.epoch


def _rows(batch: Batch) -> list[Encoded]:
    """The sequences of a batch, as they were before they were laid end to end."""
    assert not batch.segments.prefix_of, 'completions are written for whole sequences'
    several = batch.input_ids.split(batch.segments.lengths), batch.weight.split(batch.segments.lengths)
    count = len(batch.segments.lengths)
    origins = batch.origins or (Origin('<memory>', 0),) * count
    channels = batch.channels or (None,) * count
    return [
        Encoded(ids.numpy().astype(np.int32), weight.numpy(), np.zeros(len(ids), np.uint8), origin, channel=channel)
        for ids, weight, origin, channel in zip(*several, origins, channels, strict=True)
    ]


def _prompt(row: Encoded) -> np.ndarray:
    """What stands before the first token that carries loss; nothing if none does."""
    return row.input_ids[: int(np.argmax(row.weight != 0))]


def _completed(row: Encoded, prompt: np.ndarray, completion: tuple[int, ...]) -> Encoded:
    ids = np.concatenate([prompt, np.asarray(completion, np.int32)])
    weight = np.concatenate([np.zeros(len(prompt), np.float32), np.ones(len(completion), np.float32)])
    return replace(row, input_ids=ids, weight=weight, role=np.zeros(len(ids), np.uint8))
