"""Classifiers and regressions: the scores of a head against the labels of a row.

Shapes: ``N`` sequences, one a row; ``C`` scores each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Batch, Loss, Outputs
from swift.objectives import measures

Labels = Sequence[tuple[float, ...]]


class Problem(NamedTuple):
    """``targets``: labels as a tensor like the scores; ``losses`` [N] of scores and targets; ``decide`` scores."""

    targets: Callable[[Labels, Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]
    decide: Callable[[Tensor], Tensor]


def _classes(labels: Labels, scores: Tensor) -> Tensor:
    """[N] the class of each row."""
    return torch.tensor([int(label[0]) for label in labels], device=scores.device)


def _several(labels: Labels, scores: Tensor) -> Tensor:
    """[N, C] 1 for the classes that a row names."""
    targets = torch.zeros_like(scores)
    for row, label in enumerate(labels):
        targets[row, [int(each) for each in label]] = 1
    return targets


def _numbers(labels: Labels, scores: Tensor) -> Tensor:
    return torch.tensor(labels, device=scores.device, dtype=scores.dtype)


def one_of_several(scores: Tensor, classes: Tensor) -> Tensor:
    """-log softmax(s)_y, [N]"""
    return F.cross_entropy(scores, classes, reduction='none')


def any_of_several(scores: Tensor, wanted: Tensor) -> Tensor:
    """The mean over the classes of -y log s(z) - (1 - y) log s(-z), z the score of the class: [N]"""
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction='none').mean(-1)


def numbers(scores: Tensor, wanted: Tensor) -> Tensor:
    """The mean over the numbers of (s - y)^2, [N]"""
    return ((scores - wanted) ** 2).mean(-1)


PROBLEMS = {
    'single_label_classification': Problem(_classes, one_of_several, lambda s: s.argmax(-1)),
    'multi_label_classification': Problem(_several, any_of_several, lambda s: s > 0),
    'regression': Problem(_numbers, numbers, lambda s: s),
}
"""By ``problem_type``, the losses of transformers' own ``...ForSequenceClassification`` (its ``loss_utils.py``)."""


class Classify:
    """The mean over rows of the loss of ``problem``; see PROBLEMS.

    Evaluation adds what is no mean over rows: F1 (macro) for classes, Pearson's and Spearman's correlation and the mean
    absolute error for numbers.
    """

    needs = frozenset({'scores'})

    def __init__(self, problem: str):
        self.problem, self._of = problem, PROBLEMS[problem]

    def count(self, batch: Batch) -> int:
        return len(batch.segments.leaves)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        targets = self._of.targets(batch.labels, outputs.scores)
        losses = self._of.losses(outputs.scores, targets)  # [N]
        count = losses.new_tensor(len(losses))
        metrics = {'loss': (losses.sum().detach(), count)}
        if self.problem != 'regression':
            right = self._of.decide(outputs.scores) == targets
            metrics['acc'] = (right.all(-1).sum() if right.dim() > 1 else right.sum(), count)
        return Loss(losses.sum(), metrics)

    def collect(self, outputs: Outputs, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Decisions and targets of a batch."""
        targets = self._of.targets(batch.labels, outputs.scores)
        return self._of.decide(outputs.scores).cpu().numpy(), targets.cpu().numpy()

    def summary(self, collected: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """What is no mean over rows, of all batches."""
        found, wanted = (np.concatenate(each) for each in zip(*collected, strict=True))
        if self.problem == 'regression':
            return measures.correlations(found.ravel(), wanted.ravel())
        return {'f1': measures.macro_f1(found, wanted)}
