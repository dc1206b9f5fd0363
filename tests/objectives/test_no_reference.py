"""CPO, SimPO and ORPO: metrics and hostile numbers; the formulas themselves are tried in test_catalog."""

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import trial
from swift.objectives.args import LOSS_TYPES
from swift.objectives.no_reference import LOSSES, Contrast, Orpo, log_odds
from tests.objectives.checks import measured

ROWS = trial.preferences(0)
EACH = [*(Contrast(loss=name) for name in LOSSES), Contrast(alpha=0.0), Orpo()]


def test_odds_are_exact_for_rare_and_finite_for_certain_answers():
    log_p = torch.tensor([-1e6, -100.0, -0.5, -1e-4, 0.0])
    exact = torch.tensor([-1e6, -100.0, 0.43275, 9.21029])
    torch.testing.assert_close(log_odds(log_p)[:4], exact, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(log_odds(log_p)).all()


@pytest.mark.parametrize('size', [0.0, -1e-9, -1e2, -1e6])
@pytest.mark.parametrize('objective', EACH, ids=str)
def test_certain_and_impossible_answers_give_finite_losses_and_gradients_in_float32(objective, size):
    for chosen, rejected in ((size, -1.0), (-1.0, size), (size, size)):
        batch = Batch(
            input_ids=torch.zeros(4, dtype=torch.long),
            position_ids=torch.arange(4),
            segments=Segments((2, 2)),
            weight=torch.tensor([0.0, 1.0, 0.0, 1.0]),
            groups=(2,),
            places=(0,),
        )
        batch.streams |= objective.prepare([batch], lambda step: [])[0]
        logps = torch.tensor([0.0, chosen, 0.0, rejected], requires_grad=True)
        loss = objective(Outputs(logps, correct=batch.weight != 0), batch)
        loss.total.backward()
        assert torch.isfinite(loss.total) and torch.isfinite(logps.grad).all()


def test_metrics_are_told_by_their_established_names():
    names = {
        'loss', 'nll_loss', 'rewards/chosen', 'rewards/rejected', 'rewards/accuracies', 'rewards/margins',
        'logps/chosen', 'logps/rejected', 'mean_token_accuracy',
    }  # fmt: skip
    assert measured(Contrast(), ROWS).metrics.keys() == names
    assert measured(Orpo(), ROWS).metrics.keys() == names | {'log_odds_ratio', 'log_odds_chosen'}


def test_the_names_of_the_flag_are_those_of_the_table():
    assert set(LOSS_TYPES['cpo']) == set(LOSSES)
