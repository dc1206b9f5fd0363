"""CPO, SimPO and ORPO against their papers' formulas, and unmoved by how a step is cut or laid out."""

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.args import LOSS_TYPES
from swift.objectives.no_reference import LOSSES, Contrast, Orpo, log_odds
from tests.objectives import checks
from tests.objectives.checks import POLICY, REFERENCE

ROWS = trial.preferences(0)
WHOLE = [range(len(ROWS))]
CASES = {
    'cpo': (Contrast(), 'cpo', {}),
    'cpo smoothed': (Contrast(label_smoothing=0.2, beta=0.4), 'cpo', {'label_smoothing': 0.2, 'beta': 0.4}),
    'cpo without sft': (Contrast(alpha=0), 'cpo', {'cpo_alpha': 0.0}),
    'cpo hinge': (Contrast(loss='hinge', alpha=0.5), 'cpo_hinge', {'cpo_alpha': 0.5}),
    'cpo ipo': (Contrast(loss='ipo'), 'cpo_ipo', {}),
    'simpo': (Contrast(loss='simpo', beta=2.0, alpha=0.0), 'simpo', {'cpo_alpha': 0.0}),
    'cpo-simpo': (Contrast(loss='simpo', beta=2.0, gamma=0.4), 'simpo', {'simpo_gamma': 0.4}),
    'orpo': (Orpo(), 'orpo', {}),
    'orpo strong': (Orpo(beta=1.5), 'orpo', {'beta': 1.5}),
}


def measured(objective, rows=ROWS, split=WHOLE):
    return trial.measure(objective, trial.batches(rows, split), POLICY, REFERENCE)


@pytest.mark.parametrize(('objective', 'name', 'how'), CASES.values(), ids=CASES)
def test_a_loss_and_its_gradient_are_those_of_the_paper(objective, name, how):
    formula = getattr(references, name)
    checks.agrees(measured(objective), lambda policy: formula(trial.written_out(ROWS, policy, REFERENCE), **how))


@pytest.mark.parametrize('split', checks.SPLITS)
@pytest.mark.parametrize(('objective', 'name', 'how'), CASES.values(), ids=CASES)
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(objective, name, how, split):
    checks.same(measured(objective, split=split), measured(objective))


@pytest.mark.parametrize(('objective', 'name', 'how'), CASES.values(), ids=CASES)
def test_shared_prefixes_change_nothing(objective, name, how):
    checks.same(measured(objective), measured(objective, trial.preferences(0, share=False)))


@pytest.mark.parametrize(('objective', 'name', 'how'), CASES.values(), ids=CASES)
def test_answers_that_changed_places_are_found(objective, name, how):
    formula = getattr(references, name)
    turned = lambda policy: [row[::-1] for row in trial.written_out(ROWS, policy, REFERENCE)]
    with pytest.raises(AssertionError):
        checks.agrees(measured(objective), lambda policy: formula(turned(policy), **how))


def test_odds_are_exact_for_rare_and_finite_for_certain_answers():
    log_p = torch.tensor([-1e6, -100.0, -0.5, -1e-4, 0.0])
    exact = torch.tensor([-1e6, -100.0, 0.43275, 9.21029])
    torch.testing.assert_close(log_odds(log_p)[:4], exact, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(log_odds(log_p)).all()


@pytest.mark.parametrize('size', [0.0, -1e-9, -1e2, -1e6])
@pytest.mark.parametrize(('objective', 'name', 'how'), CASES.values(), ids=CASES)
def test_certain_and_impossible_answers_give_finite_losses_and_gradients_in_float32(objective, name, how, size):
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
    assert measured(Contrast()).metrics.keys() == names
    assert measured(Orpo()).metrics.keys() == names | {'log_odds_ratio', 'log_odds_chosen'}


def test_the_names_of_the_flag_are_those_of_the_table():
    assert set(LOSS_TYPES['cpo']) == set(LOSSES)
