"""A step to try objectives on: random rows, and a model of bigrams that is small enough to be differentiated by hand.

``rows`` and ``batches`` make a step as training has it, prefixes shared or not; ``measure`` does with an objective what
a backend does; ``written_out`` gives the same step to the references. All in float64.

Shapes: ``V`` tokens of the vocabulary, ``T`` tokens of a batch, ``N`` sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from swift.core.types import Batch, Encoded, Objective, Origin, Outputs, Prepares, Segments
from swift.data.collate import collate
from swift.data.groups import group
from swift.kernels.divergence import Divergence, Predictions
from swift.objectives.references import Answer, Row

VOCABULARY = 5
PROMPTS = (2, 3, 9, 10, 11)  # tokens; the longer ones are shared by a pair
ANSWERS = (1, 2, 3, 5)
ROWS = 6
CHANNELS = ('code', None, 'maths')
CLASSES = 3  # numbers of a head that gives several
YES, NO = 0, 1  # tokens of a reranker that answers with them


class Weights(NamedTuple):
    """A model: log p(b | a) is the log-softmax of row a of ``table`` [V, V]; a sequence's score sums ``value`` [V], its
    embedding the rows of ``table``."""

    table: Tensor
    value: Tensor

    @classmethod
    def random(cls, seed: int) -> Weights:
        """Weights of the order of 1."""
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
        return cls(draw(VOCABULARY, VOCABULARY), draw(VOCABULARY) / 4)


# ----------------------------------------------------------------------------------------------------------------- rows
def preferences(seed: int, count: int = ROWS, *, share: bool = True, prompts: Sequence[int] = PROMPTS) -> list[Encoded]:
    """Pairs with margins. Some begin their answers alike, some prompts are too short to be shared."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        prompt = random.integers(0, VOCABULARY, prompts[i % len(prompts)])
        alike = random.integers(0, VOCABULARY, i % 2)
        members = [_row(prompt, np.concatenate([alike, _answer(random)])) for _ in range(2)]
        rows.append(group(members, label=(float(random.uniform(0, 1)),), share=share))
    return rows


def verdicts(seed: int, count: int = ROWS) -> list[Encoded]:
    """Answers that somebody wanted (two of three) or did not."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        prompt, answer = random.integers(0, VOCABULARY, PROMPTS[i % len(PROMPTS)]), _answer(random)
        made = _row(prompt, answer)
        made.segments, made.label = Segments((len(prompt), len(answer)), (-1, 0)), (float(i % 3 != 0),)
        rows.append(made)
    return rows


def solutions(seed: int, count: int = ROWS) -> list[Encoded]:
    """Solutions of one to three steps, cut after each: the n-th sequence ends with step n. Labels are right or wrong.

    What follows a step lies behind all of it but its last token, which is there twice: once to be scored.
    """
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        ids, lengths, parents, inner = [], [], [], -1
        for n in range(1 + i % 3):
            step = np.concatenate([ids[-1:] if n else random.integers(0, VOCABULARY, 4), _answer(random)]).tolist()
            ids += step
            parents += [inner, len(lengths)]
            inner = len(lengths)
            lengths += [len(step) - 1, 1]
        made = _row(np.array(ids[:1]), np.array(ids[1:]))
        made.segments = Segments(tuple(lengths), tuple(parents))
        made.label = tuple(float(right) for right in random.integers(0, 2, 1 + i % 3))
        rows.append(made)
    return rows


def texts(seed: int, count: int = ROWS, *, weights: Sequence[float] = (0.5, 1.0, 2.0, 0.0)) -> list[Encoded]:
    """Prompts with answers whose tokens weigh differently, of several channels."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        made = _row(random.integers(0, VOCABULARY, PROMPTS[i % len(PROMPTS)]), _answer(random))
        answer = np.flatnonzero(made.weight)
        made.weight[answer[:-1]] = random.choice(weights, len(answer) - 1)
        made.channel = CHANNELS[i % len(CHANNELS)]
        rows.append(made)
    return rows


def plain_texts(seed: int, count: int = ROWS) -> list[Encoded]:
    """Prompts with answers whose tokens all weigh 1."""
    return texts(seed, count, weights=(1.0,))


def classes(seed: int, count: int = ROWS) -> list[Encoded]:
    """Texts of one class each."""
    return _labelled(seed, count, lambda random: [random.integers(0, CLASSES)])


def several_classes(seed: int, count: int = ROWS) -> list[Encoded]:
    """Texts of any number of classes."""
    return _labelled(seed, count, lambda random: np.flatnonzero(random.integers(0, 2, CLASSES)))


def numbers(seed: int, count: int = ROWS) -> list[Encoded]:
    """Texts with as many numbers as there are classes."""
    return _labelled(seed, count, lambda random: random.uniform(-2, 2, CLASSES))


def alike(seed: int, count: int = ROWS) -> list[Encoded]:
    """Anchor, another text that is like it or not, and up to two that are not."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        members = [_row(random.integers(0, VOCABULARY, 2), _answer(random)) for _ in range(2 + i % 3)]
        rows.append(group(members, label=(float(i % 2 == 0),), share=False))
    return rows


def ranked(seed: int, count: int = ROWS, *, share: bool = True) -> list[Encoded]:
    """A query with one to four documents, the first of them relevant; a query of one document, too."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        query = random.integers(0, VOCABULARY, PROMPTS[(i + 2) % len(PROMPTS)])
        members = [_row(query, _answer(random)) for _ in range(1 + (i + 1) % 4)]
        rows.append(group(members, label=(1.0,) + (0.0,) * (len(members) - 1), share=share))
    return rows


def _labelled(seed: int, count: int, label: Callable[[np.random.Generator], Any]) -> list[Encoded]:
    random = np.random.default_rng(seed)
    rows = [_row(random.integers(0, VOCABULARY, 2), _answer(random)) for _ in range(count)]
    for row in rows:
        row.label = tuple(map(float, label(random)))
    return rows


def _answer(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, VOCABULARY, random.choice(ANSWERS))


def _row(prompt: np.ndarray, answer: np.ndarray) -> Encoded:
    ids = np.concatenate([prompt, answer]).astype(np.int32)
    weight = np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))]).astype(np.float32)
    return Encoded(ids, weight, np.zeros(len(ids), np.uint8), Origin('<trial>', 0))


def batches(rows: Sequence[Encoded], split: Sequence[Sequence[int]]) -> list[Batch]:
    """A step whose micro-batches hold the rows of these numbers, in float64."""
    step = [collate([rows[i] for i in part], list(part)) for part in split]
    for batch in step:
        batch.weight = batch.weight.double()
    return step


# ---------------------------------------------------------------------------------------------------------------- model
@dataclass(frozen=True)
class View:
    """What objectives are shown of the bigram model, beside its log-probabilities.

    ``reads`` 'tokens': a sequence's score is the logit of YES less that of NO after it. ``scores``: numbers of its
    head; several are the first of its embedding. ``teacher`` and ``divergence``: whom it is compared with, and how.
    """

    reads: str | None = None
    scores: int = 1
    teacher: Weights | None = None
    divergence: Divergence | None = None

    def __call__(self, weights: Weights, batch: Batch) -> Outputs:
        """What the model gives, differentiable in ``weights``."""
        previous = batch.input_ids.roll(1)
        starts = batch.segments.starts
        for i, parent in enumerate(batch.segments.parents):
            if parent >= 0:
                previous[starts[i]] = batch.input_ids[starts[parent + 1] - 1]
        table = torch.log_softmax(weights.table, -1)
        mask = batch.weight != 0
        pooled = torch.stack([batch.per_sequence(each) for each in weights.table[batch.input_ids].T], 1)  # [N, V]
        return Outputs(
            logps=torch.where(mask, table[previous, batch.input_ids], 0.0),
            correct=mask & (table.argmax(-1)[previous] == batch.input_ids),
            scores=self._scores(weights, batch, pooled),
            pooled=pooled,
            divergence=self._apart(weights, previous, mask),
        )

    def _scores(self, weights: Weights, batch: Batch, pooled: Tensor) -> Tensor:
        """[N, C]"""
        if self.reads == 'tokens':
            ends = [batch.segments.starts[leaf + 1] - 1 for leaf in batch.segments.leaves]
            after = weights.table[batch.input_ids[ends]]
            return (after[:, YES] - after[:, NO])[:, None]
        if self.scores > 1:
            return pooled[:, : self.scores]
        return batch.per_sequence(weights.value[batch.input_ids])[:, None]

    def _apart(self, weights: Weights, previous: Tensor, mask: Tensor) -> Any:
        """[T], or nothing without a teacher."""
        if self.teacher is None or self.divergence is None:
            return None
        ours, theirs = (Predictions(each.table[previous[mask]]) for each in (weights, self.teacher))
        return torch.zeros_like(mask, dtype=weights.table.dtype).index_put((mask,), self.divergence(ours, theirs))


class Measured(NamedTuple):
    """Loss of a step, its gradient in the policy's weights (table and value, flat), and its metrics."""

    loss: float
    gradient: np.ndarray
    metrics: dict[str, float]


def measure(
    objective: Objective, step: list[Batch], policy: Weights, reference: Weights, view: View | None = None
) -> Measured:
    """What a backend does with a step."""
    outputs = view or View()
    weights = Weights(*(each.clone().requires_grad_() for each in policy))

    @torch.no_grad()
    def forward(step: list[Batch]) -> list[Outputs]:
        return [outputs(policy, batch) for batch in step]

    @torch.no_grad()
    def reference_logps(step: list[Batch]) -> list[Tensor]:
        return [outputs(reference, batch).logps for batch in step]

    if 'ref_logps' in objective.needs:
        for batch, logps in zip(step, reference_logps(step), strict=True):
            batch.streams['ref_logps'] = logps
    if isinstance(objective, Prepares):
        for batch, streams in zip(step, objective.prepare(step, forward, reference_logps), strict=True):
            batch.streams |= streams
    count = sum(objective.count(batch) for batch in step)
    sums: dict[str, list[Any]] = {}
    value = 0.0
    for batch in step:
        loss = objective(outputs(weights, batch), batch)
        (loss.total / count).backward()
        value += float(loss.total.detach()) / count
        for name, pair in loss.metrics.items():
            sums[name] = [before + float(new) for before, new in zip(sums.get(name, [0.0, 0.0]), pair, strict=True)]
    gradient = [each.grad if each.grad is not None else torch.zeros_like(each) for each in weights]
    metrics = {name: total / max(count, 1e-30) for name, (total, count) in sums.items()}
    return Measured(value, torch.cat([each.flatten() for each in gradient]).numpy(), metrics)


# ------------------------------------------------------------------------------------------------------- for references
def written_out(
    rows: Sequence[Encoded], policy: Weights, reference: Weights, *, still: Weights | None = None
) -> list[Row]:
    """The same step for ``objectives.references``: every sequence by itself, token after token.

    ``still``: the policy where no gradient flows; the same one unless given.
    """
    ours, theirs, apart = _Plain(policy), _Plain(reference), _Plain(still or policy)
    members = [sequences(row) for row in rows]
    step: list[Row] = []
    for i, row in enumerate(rows):
        before, start = members[i - 1][0]
        answers = []
        for n, (ids, weights) in enumerate(_weighed(row)):
            targets, first = np.flatnonzero(weights), members[i][n][1]
            mixed = ids[:first] + before[start:]
            each = lambda model, ids=ids, targets=targets: [model.logp(ids, t) for t in targets]
            made = Answer(
                logps=each(ours), ref=each(theirs), still=each(apart), weights=[float(weights[t]) for t in targets],
                policy_says=[ours.table[ids[t - 1]] for t in targets],
                teacher_says=[theirs.table[ids[t - 1]] for t in targets],
                says_next=ours.table[ids[-1]], score=ours.score(ids), vector=ours.raw[ids].sum(0),
                other=(_sum(apart, mixed, first), _sum(theirs, mixed, first)),
                label=row.label[n] if n < len(row.label) else (row.label or (0.0,))[0],
                labels=row.label, channel=row.channel,
            )  # fmt: skip
            answers.append(made)
        step.append(tuple(answers))
    return step


def by_reference(formula: Callable[[list[Row]], float], rows: Sequence[Encoded], *models: Weights) -> Measured:
    """What ``measure`` is to find, from a function of ``objectives.references``; ``models``: policy and reference."""
    policy, reference = models
    value = lambda weights: formula(written_out(rows, weights, reference, still=policy))
    return Measured(value(policy), slopes(value, policy), {})


def distance(one: Measured, other: Measured) -> float:
    """The largest difference of losses and gradients, relative to the latter of them if that is more than 1."""
    of_loss = abs(one.loss - other.loss) / max(1.0, abs(other.loss))
    return max(of_loss, np.abs(one.gradient - other.gradient).max() / max(1.0, np.abs(other.gradient).max()))


def slopes(value: Callable[[Weights], float], at: Weights, size: float = 1e-6) -> np.ndarray:
    """Gradient of a function of the policy by central differences."""
    flat = torch.cat([each.flatten() for each in at])
    found = []
    for i in range(len(flat)):
        ends = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[i] += sign * size
            ends.append(value(Weights(moved[: VOCABULARY**2].view(VOCABULARY, VOCABULARY), moved[VOCABULARY**2 :])))
        found.append((ends[0] - ends[1]) / (2 * size))
    return np.array(found)


class _Plain:
    """The bigram model in NumPy. ``table`` has log-probabilities, ``raw`` what they are made of."""

    def __init__(self, weights: Weights):
        self.raw, self.value = weights.table.numpy(), weights.value.numpy()
        odds = np.exp(self.raw)
        self.table = np.log(odds / odds.sum(1, keepdims=True))

    def score(self, ids: list[int]) -> float:
        return float(sum(self.value[t] for t in ids))

    def logp(self, ids: list[int], t: int) -> float:
        return float(self.table[ids[t - 1], ids[t]])


def _sum(model: _Plain, ids: list[int], first: int) -> float:
    """log p of the tokens from ``first`` on."""
    return sum(model.logp(ids, t) for t in range(first, len(ids)))


def sequences(row: Encoded) -> list[tuple[list[int], int]]:
    """Tokens of each sequence of a row, prefix included, and the place at which the answer begins."""
    return [(ids, int(np.argmax(weights != 0))) for ids, weights in _weighed(row)]


def _weighed(row: Encoded) -> Iterator[tuple[list[int], np.ndarray]]:
    """Tokens of each sequence of a row, prefix included, and their weights."""
    segments = row.segments or Segments((len(row),))
    starts = segments.starts
    for leaf in segments.leaves:
        at = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in segments.path(leaf)])
        yield row.input_ids[at].tolist(), row.weight[at]
