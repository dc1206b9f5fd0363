"""Reward models: the losses of scores against the papers' formulas."""

import dataclasses
import itertools

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.reward import BradleyTerry, StepRewards
from tests.objectives import checks
from tests.objectives.checks import POLICY, REFERENCE

PAIRS, SOLUTIONS = trial.preferences(0), trial.solutions(0)
PLAIN = [dataclasses.replace(row, label=()) for row in PAIRS]
CASES = {
    'pairs': (BradleyTerry(), PAIRS, 'bradley_terry', {}),
    'centred': (BradleyTerry(centering=0.05), PAIRS, 'bradley_terry', {'center_rewards_coefficient': 0.05}),
    'steps': (StepRewards(), SOLUTIONS, 'step_rewards', {}),
}


def measured(objective, rows, split=((0, 1, 2, 3, 4, 5),)):
    return trial.measure(objective, trial.batches(rows, split), POLICY, REFERENCE)


def formula(rows, name, how):
    return lambda policy: getattr(references, name)(trial.written_out(rows, policy, REFERENCE), **how)


@pytest.mark.parametrize(('objective', 'rows', 'name', 'how'), CASES.values(), ids=CASES)
def test_a_loss_and_its_gradient_are_those_of_the_paper(objective, rows, name, how):
    checks.agrees(measured(objective, rows), formula(rows, name, how))


@pytest.mark.parametrize('split', checks.SPLITS)
@pytest.mark.parametrize(('objective', 'rows', 'name', 'how'), CASES.values(), ids=CASES)
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(objective, rows, name, how, split):
    checks.same(measured(objective, rows, split), measured(objective, rows))


def test_a_wrong_sign_is_found():
    turned = [tuple(reversed(row)) for row in trial.written_out(PAIRS, POLICY, REFERENCE)]
    assert measured(BradleyTerry(), PAIRS).loss != pytest.approx(references.bradley_terry(turned), rel=1e-3)


def test_rows_without_a_margin_have_margin_zero():
    zero = [dataclasses.replace(row, label=(0.0,)) for row in PAIRS]
    checks.same(measured(BradleyTerry(), PLAIN), measured(BradleyTerry(), zero))
    mixed = [*PAIRS[:3], *PLAIN[3:]]
    checks.same(measured(BradleyTerry(), mixed), measured(BradleyTerry(), [*PAIRS[:3], *zero[3:]]))


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
