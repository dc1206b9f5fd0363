"""DPO and its family: against the papers' formulas in plain float64, and unmoved by how a step is cut or laid out."""

import dataclasses

import numpy as np
import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.args import ANY_DIVERGENCE, LOSS_TYPES
from swift.objectives.preference import DIVERGENCES, LOSSES, Preference
from tests.objectives import checks
from tests.objectives.checks import POLICY, REFERENCE

ROWS = trial.preferences(0)
WHOLE = [range(len(ROWS))]
SETTINGS = {
    'plain': {},
    'strong': {'beta': 0.7},
    'ld': {'ld_alpha': 0.3},
    'free': {'reference_free': True},
}
SMOOTHED = ('sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired')


def measured(objective, rows=ROWS, split=WHOLE):
    return trial.measure(objective, trial.batches(rows, split), POLICY, REFERENCE)


def expected(name, rows=ROWS, policy=POLICY, **how):
    return getattr(references, name)(trial.written_out(rows, policy, REFERENCE), **how)


def agrees(objective, reference):
    checks.agrees(measured(objective), reference)


@pytest.mark.parametrize('how', SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_and_its_gradient_are_those_of_the_paper(name, how):
    agrees(Preference(losses={name: 1.0}, **how), lambda policy: expected(name, policy=policy, **how))


@pytest.mark.parametrize('name', SMOOTHED)
def test_smoothed_labels_are_those_of_the_paper(name):
    how = {'label_smoothing': 0.2}
    agrees(Preference(losses={name: 1.0}, **how), lambda policy: expected(name, policy=policy, **how))


@pytest.mark.parametrize('divergence', ['forward_kl', 'js_divergence', 'alpha_divergence'])
@pytest.mark.parametrize('name', sorted(ANY_DIVERGENCE - {'sft'}))
def test_other_divergences_are_those_of_the_paper(name, divergence):
    agrees(
        Preference(losses={name: 1.0}, divergence=divergence, divergence_alpha=0.4),
        lambda policy: expected(name, policy=policy, f_divergence_type=divergence, f_alpha_divergence_coef=0.4),
    )


def test_several_losses_add_up_with_their_weights():
    weights = {'sigmoid': 0.8, 'bco_pair': 0.2, 'aot': 0.5, 'sft': 1.5}
    formulas = {**{name: name for name in weights}, 'sft': 'next_token'}
    agrees(
        Preference(losses=weights),
        lambda policy: sum(w * expected(formulas[name], policy=policy) for name, w in weights.items()),
    )


@pytest.mark.parametrize('split', [[[0, 1, 2], [3, 4, 5]], [[5], [3, 0], [1, 4, 2]], [[i] for i in range(6)]])
@pytest.mark.parametrize('names', [*LOSSES, 'sft', 'sft aot sigmoid'])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(names, split):
    objective = Preference(losses=dict.fromkeys(names.split(), 1.0), ld_alpha=0.5)
    whole, cut = measured(objective), measured(objective, split=split)
    checks.same(cut, whole)


@pytest.mark.parametrize('names', [*LOSSES, 'sft'])
def test_shared_prefixes_change_nothing(names):
    objective = Preference(losses=dict.fromkeys(names.split(), 1.0), ld_alpha=0.5)
    apart = trial.preferences(0, share=False)
    assert any(row.segments.prefix_of for row in ROWS) and not any(row.segments.prefix_of for row in apart)
    shared, alone = measured(objective), measured(objective, apart)
    checks.same(shared, alone)


@pytest.mark.parametrize('name', LOSSES)
def test_a_wrong_sign_is_found(name, monkeypatch):
    right = LOSSES[name]
    swapped = lambda p, how: right.loss(
        dataclasses.replace(
            p, chosen=p.rejected, rejected=p.chosen, ref_chosen=p.ref_rejected, ref_rejected=p.ref_chosen
        ),
        how,
    )
    monkeypatch.setitem(LOSSES, name, right._replace(loss=swapped))
    with pytest.raises(AssertionError):
        agrees(Preference(losses={name: 1.0}), lambda policy: expected(name, policy=policy))


def test_metrics_are_told_by_their_established_names():
    found = measured(Preference(losses={'sigmoid': 1.0, 'sft': 1.0}, beta=0.3)).metrics
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
