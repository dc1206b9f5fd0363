"""Reward models: margins, steps and hostile numbers; the formulas themselves are tried in test_catalog."""

import dataclasses
import itertools

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import trial
from swift.objectives.reward import BradleyTerry, StepRewards
from tests.objectives.checks import measured, same

PAIRS, SOLUTIONS = trial.preferences(0), trial.solutions(0)
PLAIN = [dataclasses.replace(row, label=()) for row in PAIRS]


def test_rows_without_a_margin_have_margin_zero():
    zero = [dataclasses.replace(row, label=(0.0,)) for row in PAIRS]
    same(measured(BradleyTerry(), PLAIN), measured(BradleyTerry(), zero))
    mixed = [*PAIRS[:3], *PLAIN[3:]]
    same(measured(BradleyTerry(), mixed), measured(BradleyTerry(), [*PAIRS[:3], *zero[3:]]))


def test_a_solution_cut_after_each_step_ends_with_that_step():
    """The layout that step rewards ask for: each sequence is the one before it and a step more."""
    for row in SOLUTIONS:
        cuts = [ids for ids, _ in trial.sequences(row)]
        assert len(cuts) == len(row.label)
        assert all(long[: len(short)] == short and len(long) > len(short) for short, long in itertools.pairwise(cuts))


@pytest.mark.parametrize('size', [1e2, 1e6, -1e2, -1e6])
def test_huge_scores_give_finite_losses_and_gradients_in_float32(size):
    batch = Batch(
        input_ids=torch.zeros(2, dtype=torch.long),
        position_ids=torch.zeros(2, dtype=torch.long),
        segments=Segments((1, 1)),
        weight=torch.zeros(2),
        groups=(2,),
    )
    for objective in (BradleyTerry(centering=0.01), StepRewards()):
        batch.labels = ((1.0, 0.0),) if isinstance(objective, StepRewards) else ()
        scores = torch.tensor([[size], [-size]], requires_grad=True)
        loss = objective(Outputs(scores=scores), batch)
        loss.total.backward()
        assert torch.isfinite(loss.total) and torch.isfinite(scores.grad).all()


def test_an_evaluation_tells_the_least_and_the_largest_reward_of_all_batches():
    objective, batches = BradleyTerry(), [trial.batches(PAIRS, [part])[0] for part in ([0, 1], [2], [3, 4, 5])]
    weights = trial.Weights.random(3)
    outputs = [trial.View()(weights, batch) for batch in batches]
    found = objective.summary([objective.collect(*each) for each in zip(outputs, batches, strict=True)])
    scores = torch.cat([each.scores for each in outputs])
    assert found == {'min_reward': float(scores.min()), 'max_reward': float(scores.max())}
