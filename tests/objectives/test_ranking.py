"""Losses and measures of rerankers, against NumPy written from the formulas and the numbers of a peer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives.args import TaskArgs
from swift.objectives.ranking import Listwise, Pointwise, from_args, ndcg, reciprocal_ranks
from tests.objectives import peers_of_tasks as peers

LABELS = ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0,))


def batch(labels=LABELS) -> Batch:
    sizes = tuple(map(len, labels))
    count = sum(sizes)
    return Batch(
        torch.arange(count), torch.zeros(count).long(), Segments((1,) * count), torch.ones(count),
        groups=sizes, labels=tuple(labels), places=tuple(range(len(sizes))),
    )  # fmt: skip


def scores(values=peers.SCORES) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def means(loss) -> dict[str, float]:
    return {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}


@pytest.mark.parametrize(('objective', 'expected'), [(Pointwise(), peers.POINTWISE), (Listwise(), peers.LISTWISE)])
def test_losses_and_ranks_give_the_numbers_of_ms_swift(objective, expected):
    one = batch()
    found = objective(Outputs(scores=scores()), one)
    assert float(found.total) / objective.count(one) == pytest.approx(expected, abs=1e-9)
    assert {name: means(found)[name] for name in ('mrr', 'ndcg')} == pytest.approx(peers.RANKED, abs=1e-9)


def test_pointwise_is_the_log_score_of_each_document():
    s, y = np.array(peers.SCORES), np.array([each for label in LABELS for each in label])
    expected = -np.mean(y * np.log(1 / (1 + np.exp(-s))) + (1 - y) * np.log(1 / (1 + np.exp(s))))
    assert means(Pointwise()(Outputs(scores=scores()), batch()))['loss'] == pytest.approx(expected)
    assert means(Pointwise()(Outputs(scores=scores()), batch()))['acc'] == pytest.approx(np.mean((s > 0) == (y == 1)))


def test_listwise_is_the_log_share_of_the_relevant_document():
    objective, values = Listwise(temperature=0.5, smallest=1), [0.3, -0.2, 0.9, 1.1]
    labels = ((0.0, 1.0, 0.0), (1.0,))
    share = lambda row, i: -math.log(math.exp(row[i] / 0.5) / sum(math.exp(x / 0.5) for x in row))
    found = objective(Outputs(scores=scores(values)), batch(labels))
    assert float(found.total) == pytest.approx(share(values[:3], 1) + share(values[3:], 0))


@pytest.mark.parametrize('objective', [Pointwise(), Listwise()])
def test_gradients_are_those_of_finite_differences(objective):
    one = batch()
    assert torch.autograd.gradcheck(
        lambda s: objective(Outputs(scores=s), one).total, scores().requires_grad_(), check_undefined_grad=False
    )


def test_queries_without_a_relevant_document_or_of_one_document_do_not_count():
    one = batch(((0.0, 0.0), (1.0,)))
    assert Listwise().count(one) == 0
    assert float(Listwise()(Outputs(scores=scores([1.0, 2.0, 3.0])), one).total) == 0


def test_ranks_of_graded_documents_are_their_formulas():
    own = torch.tensor([[0.1, 0.9, 0.5, -torch.inf], [2.0, 1.0, 3.0, 4.0]])
    relevance = torch.tensor([[2.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    assert reciprocal_ranks(own, relevance).tolist() == pytest.approx([1 / 2, 1 / 4])
    dcg = lambda gains: sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(gains))
    assert ndcg(own, relevance).tolist() == pytest.approx([dcg([0, 1, 2]) / dcg([2, 1, 0]), dcg([0, 0, 0, 1])])


def test_flags_choose_the_loss():
    assert isinstance(from_args(TaskArgs()), Pointwise)
    made = from_args(TaskArgs(loss_type='listwise_reranker', listwise_reranker_temperature=2.0))
    assert isinstance(made, Listwise) and made.temperature == 2.0
