"""Embedding models: which texts are to be near each other.

A group is an anchor (a query), then its positive, then its negatives; a row may have a label, how alike anchor and
positive are. Losses compare cosines, so embeddings need not be normalised.

Shapes: ``N`` sequences in ``G`` groups, ``P`` pairs of an anchor with another text, ``D`` texts that are no anchor,
``d`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Batch, Forward, Loss, Outputs
from swift.objectives import matryoshka, measures, stepwide
from swift.objectives.args import TaskArgs

MARGIN = 0.5
"""Cosine distance beyond which texts that differ are far enough apart; of sentence-transformers' contrastive losses."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How N embeddings are grouped, and how alike anchor and positive of each row are."""

    sizes: tuple[int, ...]  # [G]
    labels: tuple[float, ...]  # [G]

    @classmethod
    def of(cls, step: Sequence[Batch]) -> Rows:
        """The rows of these batches, in the order of the step."""
        found = []
        for batch in step:
            labels = batch.labels or ((),) * len(batch.spans())
            places = batch.places or range(len(labels))
            for place, (first, end), label in zip(places, batch.spans(), labels, strict=True):
                found.append((place, end - first, label[0] if label else 1.0))
        found.sort(key=lambda row: row[0])
        return cls(tuple(size for _, size, _ in found), tuple(label for *_, label in found))

    @property
    def anchors(self) -> list[int]:
        """[G] which embeddings are anchors."""
        ends = np.cumsum(self.sizes)
        return (ends - self.sizes).tolist()

    def pairs(self, like: Tensor) -> tuple[list[int], list[int], Tensor]:
        """Anchor and other text of every pair, [P], and how alike they are, [P]: negatives not at all."""
        anchors, others, wanted = [], [], []
        for first, size, label in zip(self.anchors, self.sizes, self.labels, strict=True):
            anchors += [first] * (size - 1)
            others += range(first + 1, first + size)
            wanted += [label] + [0.0] * (size - 2)
        return anchors, others, like.new_tensor(wanted)


# -------------------------------------------------------------------------------------------------------------- losses
def _cosines(e: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """cos(anchor, other) and how alike they are, [P] each."""
    anchors, others, wanted = rows.pairs(e)
    return F.cosine_similarity(e[anchors], e[others]), wanted


def cosine_similarity(e: Tensor, rows: Rows, _: TaskArgs) -> Tensor:
    """(cos(u, v) - y)^2.  Reimers and Gurevych, arXiv 1908.10084, section 3, regression objective"""
    cosines, wanted = _cosines(e, rows)
    return (cosines - wanted) ** 2


def contrastive(e: Tensor, rows: Rows, _: TaskArgs) -> Tensor:
    """y D^2 / 2 + (1 - y) max(0, m - D)^2 / 2, D = 1 - cos.  Hadsell et al., CVPR 2006, eq. 4"""
    cosines, wanted = _cosines(e, rows)
    distance = 1 - cosines
    return 0.5 * (wanted * distance**2 + (1 - wanted) * F.relu(MARGIN - distance) ** 2)


def online_contrastive(e: Tensor, rows: Rows, _: TaskArgs) -> Tensor:
    """D^2 of alike pairs, max(0, m - D)^2 of others, of the hard ones only, summed.  Hadsell et al., CVPR 2006, eq. 4

    Hard are alike pairs that are farther apart than the nearest other pair, and other pairs that are nearer than the
    farthest alike one, of the whole step: sentence-transformers' OnlineContrastiveLoss.
    """
    cosines, wanted = _cosines(e, rows)
    distance = 1 - cosines
    alike, other = wanted == 1, wanted == 0
    farthest = _limit(distance[alike], distance[other], torch.max)
    nearest = _limit(distance[other], distance[alike], torch.min)
    zero = torch.zeros_like(distance)
    pulled = torch.where(alike & (distance > nearest), distance**2, zero)
    return pulled + torch.where(other & (distance < farthest), F.relu(MARGIN - distance) ** 2, zero)


def _limit(several: Tensor, others: Tensor, extreme: Callable[[Tensor], Tensor]) -> Tensor:
    """The extreme of several distances; of fewer than two, the mean of the others takes its place."""
    return extreme(several.detach()) if len(several) > 1 else others.detach().mean()


def triplet(e: Tensor, rows: Rows, _: TaskArgs) -> Tensor:
    """max(0, D(a, p) - D(a, n) + m) for every negative n, D = 1 - cos.  Schroff et al., arXiv 1503.03832, eq. 1"""
    anchors, positives, negatives = [], [], []
    for first, size in zip(rows.anchors, rows.sizes, strict=True):
        anchors += [first] * (size - 2)
        positives += [first + 1] * (size - 2)
        negatives += range(first + 2, first + size)
    near, far = (F.cosine_similarity(e[anchors], e[each]) for each in (positives, negatives))
    return F.relu(far - near + MARGIN)


def infonce(e: Tensor, rows: Rows, how: TaskArgs) -> Tensor:
    """-log (exp(cos(q, p) / t) / Z), Z the sum of exp(cos / t) over the documents of the step, [G].

    van den Oord et al., arXiv 1807.03748, eq. 4, with negatives in the batch and hard ones. Z may also have the other
    queries (``infonce_include_qq``) and the positive against other documents (``infonce_include_dd``), and leave out
    what is more alike than the positive by a margin (``infonce_mask_fake_negative``): Qwen3-Embedding, arXiv
    2506.05176, section 2.2. Without ``infonce_use_batch`` it is over the row's own documents only.
    """
    e = F.normalize(e, dim=-1)
    documents, owner, positive = _documents(rows, how.infonce_hard_negatives)
    queries, docs = e[rows.anchors], e[documents]  # [G, d], [D, d]
    own, row = torch.tensor(positive, device=e.device), torch.arange(len(queries), device=e.device)
    never = float('-inf')
    alike = queries @ docs.T  # [G, D]
    limit = (alike[row, own].detach() + how.infonce_fake_neg_margin)[:, None]
    real = lambda values: values.masked_fill(values > limit, never) if how.infonce_mask_fake_negative else values
    if not how.infonce_use_batch:
        others = torch.tensor(owner, device=e.device)[None] != row[:, None]
        return F.cross_entropy(alike.masked_fill(others, never) / how.infonce_temperature, own, reduction='none')
    parts = [real(alike)]
    if how.infonce_include_qq:
        parts.append(real((queries @ queries.T).masked_fill(row[:, None] == row, never)))
    if how.infonce_include_dd:
        itself = torch.zeros_like(alike, dtype=torch.bool)
        itself[row, own] = True
        parts.append((docs[own] @ docs.T).masked_fill(itself, never))
    return F.cross_entropy(torch.cat(parts, 1) / how.infonce_temperature, own, reduction='none')


def _documents(rows: Rows, hard: int | None) -> tuple[list[int], list[int], list[int]]:
    """Which embeddings are documents, [D], whose row each is of, [D], and which of them is each row's positive, [G].

    ``hard`` negatives of each row count: the first ones, or all of them as often as it takes.
    """
    documents, owner, positive = [], [], []
    for g, (first, size) in enumerate(zip(rows.anchors, rows.sizes, strict=True)):
        positive.append(len(documents))
        negatives = list(range(first + 2, first + size))
        if hard is not None and negatives:
            negatives = [negatives[i % len(negatives)] for i in range(hard)]
        documents += [first + 1, *negatives]
        owner += [g] * (1 + len(negatives))
    return documents, owner, positive


class Kind(NamedTuple):
    """``losses`` of embeddings; how many there are, by the sizes of the groups; whether the whole step is looked at."""

    losses: Callable[[Tensor, Rows, TaskArgs], Tensor]
    count: Callable[[int], int]
    stepwide: bool = False


LOSSES = {
    'cosine_similarity': Kind(cosine_similarity, lambda size: size - 1),
    'contrastive': Kind(contrastive, lambda size: size - 1),
    'online_contrastive': Kind(online_contrastive, lambda size: 0, stepwide=True),
    'triplet': Kind(triplet, lambda size: max(0, size - 2)),
    'infonce': Kind(infonce, lambda size: 1, stepwide=True),
}


class Embed:
    """The loss ``args.loss_type`` of embeddings, the mean over rows or pairs (online_contrastive: the sum).

    ``args.mrl_dims``: the weighted sum of the losses of the first numbers of each embedding, normalised anew:
    Matryoshka, arXiv 2205.13147, eq. 1. Terms over the whole step take two passes, see ``stepwide``; a step that is one
    batch takes one.
    """

    needs = frozenset({'pooled'})

    def __init__(self, args: TaskArgs):
        self.args, self.name = args, args.loss_type or 'infonce'
        self.kind = LOSSES[self.name]
        self.dims = matryoshka.dims(args.mrl_dims)

    def count(self, batch: Batch) -> int:
        if self.name == 'online_contrastive':  # a sum: whoever has the first row of the step counts it once
            return int(0 in (batch.places or (0,)))
        return sum(self.kind.count(end - first) for first, end in batch.spans())

    @property
    def repeats(self) -> bool:
        """Whether the loss looks at the whole step."""
        return self.kind.stepwide and not (self.name == 'infonce' and not self.args.infonce_use_batch)

    def prepare(self, step: list[Batch], forward: Forward, _: Any = None) -> list[dict[str, Tensor]]:
        """The pull on each embedding, where the loss looks at the whole step and the step is more than a batch."""
        if len(step) == 1 or not self.repeats:
            return [{} for _ in step]
        rows = Rows.of(step)
        return stepwide.pulls(step, [each.pooled for each in forward(step)], lambda e: self._losses(e, rows))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        if 'pull' in batch.streams:
            total = stepwide.surrogate(outputs.pooled, batch)
        else:
            total = self._losses(stepwide.whole([batch], [outputs.pooled]), Rows.of([batch])).sum()
        return Loss(total, {'loss': (total.detach(), total.new_tensor(self.count(batch)))})

    def collect(self, outputs: Outputs, batch: Batch) -> tuple[np.ndarray, Rows]:
        """Embeddings of a batch, and their rows."""
        return stepwide.whole([batch], [outputs.pooled]).float().cpu().numpy(), Rows.of([batch])

    def summary(self, collected: Sequence[tuple[np.ndarray, Rows]]) -> dict[str, float]:
        """Finding the positive among all documents; for losses of pairs, correlations with the labels."""
        e = np.concatenate([each for each, _ in collected])
        rows = Rows(*(sum((getattr(each, name) for _, each in collected), ()) for name in ('sizes', 'labels')))
        if self.name in ('infonce', 'triplet'):
            documents, _, positive = _documents(rows, None)
            return measures.retrieval(e[rows.anchors], e[documents], np.asarray(positive))
        anchors, others, wanted = rows.pairs(torch.empty(0))
        return measures.paired(e[anchors], e[others], wanted.numpy())

    def _losses(self, e: Tensor, rows: Rows) -> Tensor:
        """Sums to the loss."""
        if not self.dims:
            return self.kind.losses(e, rows, self.args)
        return matryoshka.mixed(e, self.dims, lambda shorter: self.kind.losses(shorter, rows, self.args))
