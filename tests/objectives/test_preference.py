"""DPO and its family: mixtures, metrics and hostile numbers; the formulas themselves are tried in test_catalog."""

import dataclasses

import numpy as np
import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.args import ANY_DIVERGENCE, LOSS_TYPES
from swift.objectives.preference import DIVERGENCES, LOSSES, Preference
from tests.objectives.checks import POLICY, REFERENCE, SPLITS, WHOLE, agrees, measured, same

ROWS = trial.preferences(0)


def test_several_losses_add_up_with_their_weights():
    weights = {'sigmoid': 0.8, 'bco_pair': 0.2, 'aot': 0.5, 'sft': 1.5}
    formulas = {**{name: name for name in weights}, 'sft': 'next_token'}
    total = lambda rows: sum(w * getattr(references, formulas[name])(rows) for name, w in weights.items())
    agrees(Preference(losses=weights), ROWS, total)
    for split in SPLITS:
        same(measured(Preference(losses=weights), ROWS, split), measured(Preference(losses=weights), ROWS))


@pytest.mark.parametrize('name', LOSSES)
def test_answers_that_changed_places_are_found(name, monkeypatch):
    right = LOSSES[name]
    swapped = lambda p, how: right.loss(
        dataclasses.replace(
            p, chosen=p.rejected, rejected=p.chosen, ref_chosen=p.ref_rejected, ref_rejected=p.ref_chosen
        ),
        how,
    )
    monkeypatch.setitem(LOSSES, name, right._replace(loss=swapped))
    with pytest.raises(AssertionError):
        agrees(Preference(losses={name: 1.0}), ROWS, getattr(references, name))


def test_metrics_are_told_by_their_established_names():
    found = measured(Preference(losses={'sigmoid': 1.0, 'sft': 1.0}, beta=0.3), ROWS).metrics
    rows = trial.written_out(ROWS, POLICY, REFERENCE)
    won = np.array([0.3 * (np.sum(y.logps) - np.sum(y.ref)) for y, _ in rows])
    lost = np.array([0.3 * (np.sum(y.logps) - np.sum(y.ref)) for _, y in rows])
    assert found['rewards/chosen'] == pytest.approx(won.mean())
    assert found['rewards/rejected'] == pytest.approx(lost.mean())
    assert found['rewards/accuracies'] == pytest.approx((won > lost).mean())
    assert found['rewards/margins'] == pytest.approx((won - lost).mean())
    assert found['logps/chosen'] == pytest.approx(np.mean([np.sum(y.logps) for y, _ in rows]))
    assert found['logps/rejected'] == pytest.approx(np.mean([np.sum(y.logps) for _, y in rows]))
    assert found['nll_loss'] == pytest.approx(references.next_token(rows))
    assert found.keys() == {
        'loss', 'nll_loss', 'rewards/chosen', 'rewards/rejected', 'rewards/accuracies', 'rewards/margins',
        'logps/chosen', 'logps/rejected', 'mean_token_accuracy',
    }  # fmt: skip


FORMS = [(name, d) for name in LOSSES for d in DIVERGENCES if d == 'reverse_kl' or name in ANY_DIVERGENCE]


@pytest.mark.parametrize('size', [1e2, 1e4, 1e6, -1e2, -1e4, -1e6])
@pytest.mark.parametrize(('name', 'divergence'), FORMS)
def test_huge_ratios_give_finite_losses_and_gradients_in_float32(name, divergence, size):
    objective = Preference(losses={name: 1.0}, divergence=divergence)
    batch = Batch(
        input_ids=torch.zeros(8, dtype=torch.long),
        position_ids=torch.arange(8),
        segments=Segments((2, 2, 2, 2)),
        weight=torch.tensor([0.0, 1.0] * 4),
        groups=(2, 2),
        places=(0, 1),
        streams={'ref_logps': torch.tensor([0, -1.0, 0, -2.0, 0, -3.0, 0, -4.0])},
    )
    logps = torch.tensor([0, -1.0 + size, 0, -1.5, 0, -0.5, 0, -2.0 + size], requires_grad=True)
    batch.streams |= objective.prepare([batch], lambda step: [Outputs(logps.detach())])[0]
    loss = objective(Outputs(logps, correct=batch.weight != 0), batch)
    loss.total.backward()
    assert torch.isfinite(loss.total) and torch.isfinite(logps.grad).all()


def test_answers_without_tokens_give_finite_losses():
    """The rows refuse them; a truncation that left nothing must still not turn a run into nan."""
    for name in (*LOSSES, 'sft'):
        objective = Preference(losses={name: 1.0})
        batch = Batch(
            input_ids=torch.zeros(4, dtype=torch.long),
            position_ids=torch.arange(4),
            segments=Segments((2, 2)),
            weight=torch.zeros(4),
            groups=(2,),
            places=(0,),
            streams={'ref_logps': torch.zeros(4)},
        )
        logps = torch.zeros(4, requires_grad=True)
        batch.streams |= objective.prepare([batch], lambda step: [Outputs(torch.zeros(4))])[0]
        loss = objective(Outputs(logps, correct=torch.zeros(4, dtype=torch.bool)), batch)
        loss.total.backward()
        assert torch.isfinite(loss.total) and torch.isfinite(logps.grad).all()


def test_the_names_of_the_flag_are_those_of_the_table():
    assert set(LOSS_TYPES['dpo']) == {*LOSSES, 'sft'}


def test_a_batch_that_is_no_pairs_is_our_own_mistake():
    with pytest.raises(AssertionError, match='pairs'):
        Preference().count(trial.batches(trial.verdicts(0), WHOLE)[0])
