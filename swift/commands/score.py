"""swift infer for heads that read sequences: classes with their probabilities, numbers, vectors, scores of documents.

models.load > templates.reading > data.tasks > parallel.Runner > terminal | jsonl, with the measures of the task
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swift.commands import prepare
from swift.commands.configs import InferConfig
from swift.commands.results import rows_to_answer, write
from swift.core.errors import ConfigError, DataError, RequestError, RowError
from swift.core.log import say
from swift.core.types import Builder, Encoded, Message, Outputs, Sample
from swift.models.args import split_adapter

if TYPE_CHECKING:
    from torch import Tensor

    from swift.core.types import Objective
    from swift.parallel.runner import Runner

TOKENS = 4096
"""Tokens that are computed at once."""
ROWS = {'seq_cls': 'labelled', 'embedding': 'embedding', 'reranker': 'reranker', 'generative_reranker': 'reranker'}
"""What a row becomes; keys are the tasks that are answered here."""

Row = dict[str, Any]


def main(cfg: InferConfig, prompts: list[str] | None) -> list[Row]:
    """Read every row of a dataset, or every prompt.

    Raises:
        ConfigError: there are neither.
        DataError: after all rows: some could not be read. They are in the file with their error.
    """
    if prompts is None and not (cfg.data.dataset or cfg.data.val_dataset):
        raise ConfigError(
            f'--task_type {cfg.model.task_type} answers texts, not a chat: give --val_dataset or --prompt'
        )
    reading = open_reading(cfg)
    if prompts is not None:
        rows = list(reading.answers(Sample((Message('user', each),)) for each in prompts))
        for row in rows:
            say(json.dumps(row['response']))
        return rows
    return _answer_dataset(cfg, reading)


def open_reading(cfg: InferConfig) -> Reading:
    """The model with its head and adapter, its template and what it makes of rows."""
    from swift import models
    from swift.commands.sft import device
    from swift.data import tasks
    from swift.parallel.runner import Runner
    from swift.parallel.settings import Settings
    from swift.tuners import lora

    builder = models.load(cfg.model)
    task = str(cfg.model.task_type)
    template = prepare.make_template(cfg, builder, reads=True)
    how = {'asked': True}
    if ROWS[task] == 'reranker':
        how |= {'max_positive_samples': None, 'max_negative_samples': None}
    tuned = (
        lora.continued(builder, [split_adapter(each)[1] for each in cfg.model.adapters])
        if cfg.model.adapters
        else builder
    )
    model = tuned.build()
    if not getattr(model, 'is_quantized', False) and not getattr(model, 'hf_device_map', None):
        model.to(device(use_cpu=False))
    longest = cfg.template.max_length or builder.info.max_model_len
    runner = Runner(model.eval(), Settings(max_length=longest, attn_impl=cfg.model.attn_impl), builder.readout)
    encode = tasks.encoder(ROWS[task], template.encode, **how)
    return Reading(task, builder, encode, runner, activation=cfg.engine.reranker_use_activation)


def open_reader(model: Row, template: Row, engine: Row) -> Reader:
    """The same for a process that was told what to open as JSON: groups of flags by their fields."""
    from swift.engines.args import EngineArgs
    from swift.models.args import ModelArgs
    from swift.templates.args import TemplateArgs

    groups = {'model': ModelArgs(**model), 'template': TemplateArgs(**template), 'engine': EngineArgs(**engine)}
    return Reader(open_reading(InferConfig(**groups)))


class Reader:
    """A ``Reading`` where servers have an engine: many threads ask it, it reads for one at a time."""

    adapters, ready = (), True

    def __init__(self, reading: Reading):
        self._reading, self._lock = reading, threading.Lock()
        self._tokens, self._began = 0, 0.0

    def read(self, rows: list[Row]) -> tuple[list[Row], int]:
        """An answer for each row, ``{'text', 'documents'}``, and the tokens of all. Raises RequestError."""
        samples = [_asked(row) for row in rows]
        tokens = sum(len(each) for sample in samples for each in self._encoded(sample))
        with self._lock:
            self._began = time.monotonic()
            try:
                found = list(self._reading.answers(samples))
            finally:
                self._began, self._tokens = 0.0, self._tokens + tokens
        return [{name: row[name] for name in KEPT if name in row} for row in found], tokens

    def _encoded(self, sample: Sample) -> list[Encoded]:
        made = self._reading.encode(sample)
        if not made:
            raise RequestError('a text is too long for the model', param='input')
        return made

    def stats(self) -> dict[str, float]:
        """What was read, and how long the reading under way takes."""
        return {'prompt_tokens': self._tokens, 'step_age': time.monotonic() - self._began if self._began else 0.0}


KEPT = ('response', 'probabilities', 'error')


def _asked(row: Row) -> Sample:
    documents = tuple((Message('assistant', each),) for each in row.get('documents', ()))
    return Sample((Message('user', row['text']),), positives=documents)


@dataclass
class Reading:
    """Answers samples in order, as many tokens at a time as are worth it, and adds up what they are measured by."""

    task: str
    builder: Builder
    encode: Any
    runner: Runner
    activation: bool = True
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    collected: dict[str, list[Any]] = field(default_factory=dict)

    def answers(self, samples: Iterable[Sample | RowError]) -> Iterator[Row]:
        """A result for each sample; what cannot be read has an ``error``."""
        waiting: list[tuple[Sample | None, Encoded | str]] = []
        for sample in samples:
            waiting.append(self._encoded(sample))
            if sum(len(each) for _, each in waiting if isinstance(each, Encoded)) >= TOKENS:
                yield from self._read(waiting)
                waiting = []
        yield from self._read(waiting)

    def measures(self) -> dict[str, float]:
        """How well the answers agree with the labels of the rows that have them."""
        found = {name: total / count for name, (total, count) in self.sums.items() if count and name != 'loss'}
        for name, several in self.collected.items():
            found |= self._objective(name).summary(several)  # type: ignore[attr-defined]
        return found

    # ---------------------------------------------------------------------------------------------------------- parts
    def _encoded(self, sample: Sample | RowError) -> tuple[Sample | None, Encoded | str]:
        if isinstance(sample, RowError):
            return None, str(sample)
        try:
            made = self.encode(sample)
        except RowError as error:
            return sample, str(error)
        return sample, made[0] if made else f'{sample.origin}: too long; --truncation_strategy right cuts it'

    def _read(self, rows: list[tuple[Sample | None, Encoded | str]]) -> Iterator[Row]:
        import torch

        from swift.data.collate import collate

        good = [each for _, each in rows if isinstance(each, Encoded)]
        found = iter(())
        if good:
            batch = collate(good).to(self.runner.device)
            with torch.no_grad():
                outputs = self.runner.outputs(batch, frozenset({'scores', 'pooled'}))
            values = outputs.scores if outputs.pooled is None else outputs.pooled
            found = iter([values[first:end] for first, end in batch.spans()])
        for sample, each in rows:
            if isinstance(each, str):
                yield {**_row(sample, None), 'error': each}
                continue
            values = next(found)
            if _is_judged(self.task, each):
                self._measure(values, each)
            yield {**_row(sample, each), **self._answer(values, each)}

    def _answer(self, values: Tensor, each: Encoded) -> Row:
        """``response`` and what belongs to it, from the numbers of one row, [n, C] or [n, d]."""
        if self.task == 'embedding':
            return {'response': values[0].tolist()}
        if self.task == 'seq_cls':
            return _class(values[0], self.builder.info.config.problem_type)
        scores = (values.sigmoid() if self.activation else values)[:, 0].tolist()
        return {'response': scores if len(scores) > 1 else scores[0]}

    def _measure(self, values: Tensor, each: Encoded) -> None:
        from swift.data.collate import collate

        name = _loss_of(self.task, each)
        objective, batch = self._objective(name), collate([each]).to(values.device)
        outputs = Outputs(pooled=values) if self.task == 'embedding' else Outputs(scores=values)
        if self.task != 'embedding':
            for metric, (total, count) in objective(outputs, batch).metrics.items():
                before = self.sums.get(metric, (0.0, 0.0))
                self.sums[metric] = before[0] + float(total), before[1] + float(count)
        if self.task in ('embedding', 'seq_cls'):
            self.collected.setdefault(name, []).append(objective.collect(outputs, batch))  # type: ignore[attr-defined]

    def _objective(self, name: str) -> Objective:
        from swift.objectives.args import TaskArgs
        from swift.objectives.classification import Classify
        from swift.objectives.embedding import Embed
        from swift.objectives.ranking import Pointwise

        if self.task == 'embedding':
            return Embed(TaskArgs(loss_type=name))  # type: ignore[arg-type]
        return Classify(self.builder.info.config.problem_type) if self.task == 'seq_cls' else Pointwise()


def _is_judged(task: str, each: Encoded) -> bool:
    """Whether a row says what would be right."""
    several = each.segments is not None and len(each.segments.leaves) > 1
    return bool(each.label) if task != 'embedding' else several


def _loss_of(task: str, each: Encoded) -> str:
    """The loss whose measures suit a row: those of pairs where it has a score, else those of finding."""
    if task != 'embedding':
        return task
    return 'cosine_similarity' if each.label else 'infonce'


def _class(scores: Tensor, problem: str) -> Row:
    """The decision about one row from its scores, [C]."""
    if problem == 'regression':
        values = scores.tolist()
        return {'response': values if len(values) > 1 else values[0]}
    if problem == 'multi_label_classification':
        return {'response': (scores > 0).nonzero()[:, 0].tolist(), 'probabilities': scores.sigmoid().tolist()}
    return {'response': int(scores.argmax()), 'probabilities': scores.softmax(-1).tolist()}


def _row(sample: Sample | None, each: Encoded | None) -> Row:
    """A line of the result file without its answer."""
    from swift.data.rows.standard import to_row

    if sample is None:
        return {'response': None, 'labels': None, 'messages': []}
    made = to_row(sample)
    labels = sample.label
    if labels is None and each is not None and each.label:
        labels = list(each.label)
    kept = {name: made[name] for name in ('positive_messages', 'negative_messages') if name in made}
    messages = made.get('messages') or [{'role': 'user', 'content': sample.text}]
    return {'response': None, 'labels': labels, 'messages': messages, **kept}


def _answer_dataset(cfg: InferConfig, reading: Reading) -> list[Row]:
    dataset, total = rows_to_answer(cfg)
    started = time.monotonic()
    rows = write(cfg, reading.answers(_samples(dataset, total)), total, 'rows')
    failed = [row for row in rows if 'error' in row]
    say(f'{total - len(failed)} rows in {time.monotonic() - started:.1f} s')
    if measures := reading.measures():
        say(', '.join(f'{name} {value:.4f}' for name, value in measures.items()))
    if failed:
        raise DataError(f'{len(failed)} of {total} rows could not be read; the first: {failed[0]["error"]}')
    return rows


def _samples(dataset: Any, total: int) -> Iterator[Sample | RowError]:
    for i in range(total):
        try:
            sample = dataset.sample(i)
        except RowError as error:
            yield error
            continue
        if sample is not None:
            yield sample
