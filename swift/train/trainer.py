"""The training loop: one optimizer step per item of a source, with reports, evaluation, checkpoints and resumption.

What it is given are values and seams (backend, objective, source); it knows no flags. The order of things within a
step is fixed, so that a run that stopped anywhere goes on as if it had not: step, report, evaluate, save.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from swift.core.types import Batch, Objective, Remembers, Source, TrainBackend
from swift.objectives import streams
from swift.train import evaluation, finite, rehearsal
from swift.train.signals import Signals
from swift.train.track import Record, Tracker
from swift.train.watchdog import Watchdog

logger = logging.getLogger(__name__)

Sums = dict[str, tuple[float, float]]
Wish = Literal['log', 'evaluate', 'save', 'stop']
PATIENCE = 10
"""A step hangs when it takes this many times as long as the slowest before it (the first one: as the budget)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When things happen, in optimizer steps; 0 is never. ``steps`` is the length of the run."""

    steps: int
    log: int = 5
    log_first: bool = True
    evaluate: int = 0
    evaluate_first: bool = False
    evaluate_after: int = 0
    save: int = 500
    save_last: bool = True
    early_stop: int = 0  # evaluations without a gain


@dataclass(slots=True)
class Progress:
    """Where a run stands. Saved with every checkpoint as JSON."""

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    since_log: Sums = field(default_factory=dict)
    tokens_since_log: int = 0
    time_since_log: float = 0.0
    best: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    evaluation_due: bool = False  # a signal came before it, or while it ran
    eval_metrics: dict[str, float] = field(default_factory=dict)
    skipped: int = 0  # steps without a finite loss or gradient
    skipped_in_a_row: int = 0
    objective: dict[str, Any] = field(default_factory=dict)  # what it remembers of earlier steps


class Watcher(Protocol):
    """Looks on as a run moves."""

    def stepped(self, step: int) -> Collection[Wish]:
        """A step is done; what is wanted next, beside what is due."""
        ...

    def saved(self, step: int, folder: Path) -> None: ...


class Trainer:
    """Runs ``backend`` over ``source``.

    Args:
        reference: log-probs of batches by the model that the objective compares with.
        watchers: told of every step and checkpoint.
        evaluate_on: a fresh iterable of micro-batches for each evaluation, or None.
        save: writes checkpoint ``step``: (step, progress) -> folder. It owns atomicity, rotation and links.
        better: whether the first value of ``best_metric`` beats the second.
        skipped: the journal of skipped steps, ``skipped.jsonl`` of the run.
        signals: entered by the caller, so that a signal before the first step ends the command at once.
        watchdog: entered by the caller; the loop only tells it what moves.
        rehearsed: micro-batches that are run before the first step, without a trace.
    """

    def __init__(
        self,
        backend: TrainBackend,
        objective: Objective,
        source: Source,
        pace: Pace,
        *,
        reference: streams.Reference | None = None,
        trackers: Iterable[Tracker] = (),
        watchers: Iterable[Watcher] = (),
        evaluate_on: Callable[[], Iterable[Batch]] | None = None,
        save: Callable[[int, Progress], Path] | None = None,
        best_metric: str = 'eval_loss',
        better: Callable[[float, float], bool] = lambda new, old: new < old,
        memory: Callable[[], float] = lambda: 0.0,
        progress: Progress | None = None,
        skipped: Path = Path('skipped.jsonl'),
        signals: Signals | None = None,
        watchdog: Watchdog | None = None,
        rehearsed: Sequence[Batch] = (),
    ):
        self.backend, self.objective, self.source, self.pace = backend, objective, source, pace
        self.reference = reference
        self.trackers, self.watchers = list(trackers), list(watchers)
        self.evaluate_on, self.save = evaluate_on, save
        self.best_metric, self.better, self.memory = best_metric, better, memory
        self.at = progress or Progress()
        if isinstance(objective, Remembers) and self.at.objective:
            objective.load_state_dict(self.at.objective)
        self.skipped = skipped
        self.signals, self.watchdog = signals or Signals(), watchdog or Watchdog(Path(), budget=0)
        self.rehearsed = list(rehearsed)
        self.slowest = 0.0
        self.saved: tuple[int, Path | None] = (self.at.step, None)

    def fit(self) -> Progress:
        """Train to the end of the pace. Resumed runs pass the progress they stopped at.

        Raises:
            Interrupted: a signal asked to stop; the step was finished and saved.
            NumericalError: too many steps in a row without a finite loss or gradient.
            DiskError: a checkpoint or report could not be written.
        """
        with self.signals.deferred():
            if self.rehearsed:
                self.watchdog.beat('rehearsing the largest micro-batch')
                rehearsal.rehearse(self.backend, self.objective, self.rehearsed, self._filled)
            if self.at.evaluation_due or (self.pace.evaluate_first and self.at.step == 0):
                self._evaluate()
            self._loop()
            if self.pace.save_last:
                self._save()
        return self.at

    def _loop(self) -> None:
        batches = iter(self.source)
        while self.at.step < self.pace.steps:
            self.watchdog.beat(f'waiting for the data of step {self.at.step + 1}')
            micro = next(batches, None)
            if micro is None:
                break
            self.watchdog.beat(f'step {self.at.step + 1}', budget=PATIENCE * (self.slowest or self.watchdog.default))
            self._step(micro)
            wishes = {wish for each in self.watchers for wish in each.stepped(self.at.step)}
            if self._report_due() or 'log' in wishes:
                self._report()
            due = self._due(self.pace.evaluate) and self.at.step >= self.pace.evaluate_after
            if due or 'evaluate' in wishes:
                self._evaluate()
            due = self._due(self.pace.save) or 'save' in wishes
            if due and not self.at.skipped_in_a_row:  # a model that may be lost replaces none
                self._save()
            self.signals.obey(self._save)
            if 'stop' in wishes or self._gains_nothing():
                break

    def _gains_nothing(self) -> bool:
        """Whether evaluations have not become better for too long."""
        return self.pace.early_stop > 0 and self.at.evaluations_without_gain >= self.pace.early_stop

    def _step(self, micro: list[Batch]) -> None:
        started = time.perf_counter()
        micro = self._filled(micro, self.objective)
        sums = self.backend.forward_backward(micro, self.objective)
        loss = sums['loss'][0].item()
        facts = self.backend.optim_step(discard=not math.isfinite(loss))
        self.at.step += 1
        if facts['skipped']:
            self._skip(micro, loss, facts)
        else:
            self.at.skipped_in_a_row = 0
            for name, pair in sums.items():
                _add(self.at.since_log, name, pair)
            _add(self.at.since_log, 'grad_norm', (facts['grad_norm'], 1.0))
            self.at.since_log['learning_rate'] = (facts['learning_rate'], 1.0)
        tokens = sum(len(batch.input_ids) for batch in micro)
        took = time.perf_counter() - started
        self.at.tokens += tokens
        self.at.tokens_since_log += tokens
        self.at.elapsed += took
        self.at.time_since_log += took
        self.slowest = max(self.slowest, took)

    def _filled(self, micro: list[Batch], objective: Objective) -> list[Batch]:
        forward = lambda batches: self.backend.forward(batches, needs=objective.needs)
        first = lambda batches: self.backend.first_pass(batches, needs=objective.needs)
        return streams.filled(micro, objective, forward=forward, reference=self.reference, first=first)

    def _skip(self, micro: list[Batch], loss: float, facts: dict[str, float]) -> None:
        if facts['scale_search']:  # fp16 looks for its loss scale by overflowing
            return
        self.at.skipped += 1
        self.at.skipped_in_a_row += 1
        in_a_row = self.at.skipped_in_a_row
        finite.skip(self.skipped, self.at.step, micro, loss=loss, grad_norm=facts['grad_norm'], in_a_row=in_a_row)

    def _due(self, every: int) -> bool:
        return every > 0 and (self.at.step % every == 0 or (self.at.step == self.pace.steps))

    def _report_due(self) -> bool:
        return self._due(self.pace.log) or (self.pace.log_first and self.at.step == 1)

    def _report(self) -> None:
        at = self.at
        record: Record = {name: total / max(count, 1e-30) for name, (total, count) in at.since_log.items()}
        if at.skipped:
            record['skipped_steps'] = at.skipped
        record['tokens/s'] = at.tokens_since_log / max(at.time_since_log, 1e-9)
        record['memory(GiB)'] = self.memory()
        record |= self._position()
        at.since_log, at.tokens_since_log, at.time_since_log = {}, 0, 0.0
        self._track(record)

    def _position(self) -> Record:
        at = self.at
        left = at.elapsed / max(at.step, 1) * (self.pace.steps - at.step)
        return {
            'epoch': round(self.source.epoch, 4),
            'global_step/max_steps': f'{at.step}/{self.pace.steps}',
            'percentage': f'{at.step / self.pace.steps:.2%}',
            'elapsed_time': clock(at.elapsed),
            'remaining_time': clock(left),
        }

    def _track(self, record: Record) -> None:
        for tracker in self.trackers:
            tracker.log(self.at.step, record)

    def _evaluate(self) -> None:
        """Metrics over the evaluation data; remembers the best. Put off until the run goes on when asked to stop."""
        if self.evaluate_on is None:
            return
        self.at.evaluation_due = True
        batches = self._watched(self.evaluate_on())
        metrics = evaluation.measure(self.backend, self.objective, batches, reference=self.reference)
        if self.signals.stop is not None:
            return
        self.at.evaluation_due = False
        self.at.eval_metrics = metrics
        self._track({**metrics, **self._position()})
        value = metrics.get(self.best_metric)
        if value is not None and (self.at.best is None or self.better(value, self.at.best)):
            self.at.best, self.at.best_step, self.at.evaluations_without_gain = value, self.at.step, 0
        else:
            self.at.evaluations_without_gain += 1

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of an evaluation, until the run is asked to stop."""
        for batch in batches:
            if self.signals.stop is not None:
                return
            self.watchdog.beat(f'evaluation after step {self.at.step}')
            yield batch

    def _save(self) -> Path | None:
        """Save this step unless it is saved; returns its checkpoint, or None for a run that saves nothing."""
        if self.save is not None and self.saved[0] != self.at.step:
            self.watchdog.beat(f'saving step {self.at.step}')
            if isinstance(self.objective, Remembers):
                self.at.objective = self.objective.state_dict()
            folder = self.save(self.at.step, self.at)
            self.saved = self.at.step, folder
            for each in self.watchers:
                each.saved(self.at.step, folder)
        return self.saved[1]


def _add(sums: Sums, name: str, pair: tuple[Tensor | float, Tensor | float]) -> None:
    before = sums.get(name, (0.0, 0.0))
    sums[name] = (before[0] + float(pair[0]), before[1] + float(pair[1]))


def clock(seconds: float) -> str:
    """``75 -> '1m 15s'``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, 'h'), (minutes, 'm'), (seconds, 's')]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return ' '.join(f'{number}{unit}' for number, unit in parts[:2])
