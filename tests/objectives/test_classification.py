"""Losses of classifiers against transformers' own, their gradients, and the measures of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import measures
from swift.objectives.classification import PROBLEMS, Classify

LABELS = {
    'single_label_classification': ((2.0,), (0.0,), (1.0,), (2.0,)),
    'multi_label_classification': ((0.0, 2.0), (), (1.0,), (0.0, 1.0, 2.0)),
    'regression': ((0.3, -1.0, 2.0), (0.0, 0.1, 0.2), (1.0, 1.0, 1.0), (4.0, -0.5, 0.0)),
}


def batch(problem: str) -> Batch:
    labels = LABELS[problem]
    count = len(labels)
    return Batch(
        torch.arange(count), torch.zeros(count).long(), Segments((1,) * count), torch.ones(count), labels=labels
    )


def scores() -> torch.Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def targets(problem: str) -> torch.Tensor:
    labels = LABELS[problem]
    if problem == 'single_label_classification':
        return torch.tensor([int(each[0]) for each in labels])
    if problem == 'regression':
        return torch.tensor(labels, dtype=torch.float64)
    return torch.tensor([[float(c in label) for c in range(3)] for label in labels], dtype=torch.float64)


@pytest.mark.parametrize('problem', PROBLEMS)
def test_the_loss_is_that_of_transformers_own_classifiers(problem):
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    config = transformers.LlamaConfig(num_labels=3, problem_type=problem)
    expected = ForSequenceClassificationLoss(targets(problem), scores(), config)
    objective, one = Classify(problem), batch(problem)
    found = objective(Outputs(scores=scores()), one)
    assert float(found.total) / objective.count(one) == pytest.approx(float(expected))


@pytest.mark.parametrize('problem', PROBLEMS)
def test_gradients_are_those_of_finite_differences(problem):
    one = batch(problem)
    assert torch.autograd.gradcheck(
        lambda s: Classify(problem)(Outputs(scores=s), one).total, scores().requires_grad_()
    )


@pytest.mark.parametrize('problem', PROBLEMS)
def test_an_evaluation_of_several_batches_is_that_of_all_rows(problem):
    objective, one = Classify(problem), batch(problem)
    whole = objective.summary([objective.collect(Outputs(scores=scores()), one)])
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half = Batch(one.input_ids[part], one.position_ids[part], Segments((1, 1)), one.weight[part])
        half.labels = one.labels[part]
        halves.append(objective.collect(Outputs(scores=scores()[part]), half))
    assert objective.summary(halves) == pytest.approx(whole)


def test_accuracy_of_several_classes_wants_all_of_a_row_right():
    s = torch.tensor([[1.0, -1.0, 2.0], [0.5, -1.0, -1.0], [-1.0, 3.0, -2.0], [1.0, 1.0, -1.0]])
    right, count = Classify('multi_label_classification')(
        Outputs(scores=s), batch('multi_label_classification')
    ).metrics['acc']
    assert (int(right), int(count)) == (2, 4)


def test_macro_f1_is_the_mean_of_the_classes():
    found, wanted = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0])
    # class 0: tp 1 fp 1 fn 1; class 1: tp 2 fp 0 fn 1; class 2: tp 0 fp 1
    assert measures.macro_f1(found, wanted) == pytest.approx((0.5 + 0.8 + 0.0) / 3)


def test_correlations_are_those_of_numpy_and_of_ranks():
    x, y = np.array([1.0, 2.0, 2.0, 5.0, 9.0]), np.array([0.1, 0.3, 0.2, 0.2, 0.9])
    assert measures.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    ranks = np.array([0, 1.5, 1.5, 3, 4]), np.array([0, 3, 1.5, 1.5, 4])
    assert measures.spearman(x, y) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert np.isnan(measures.pearson(np.ones(3), np.arange(3.0)))
