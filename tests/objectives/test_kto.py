"""KTO against its paper's formula; its reference point is that of the whole optimizer step."""

import dataclasses

import numpy as np
import pytest
import torch

from swift.core.errors import ConfigError
from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.kto import Kto, mismatched
from tests.objectives import checks
from tests.objectives.checks import POLICY, REFERENCE

ROWS = trial.verdicts(0)
WHOLE = [range(len(ROWS))]
WEIGHTS = {'desirable_weight': 1.3, 'undesirable_weight': 0.7}
FORMS = {'kto': True, 'apo_zero_unpaired': False}


def measured(objective, rows=ROWS, split=WHOLE, policy=POLICY, reference=REFERENCE):
    return trial.measure(objective, trial.batches(rows, split), policy, reference)


@pytest.mark.parametrize('how', [{}, {'beta': 0.7, **WEIGHTS}])
@pytest.mark.parametrize('name', FORMS)
def test_the_loss_and_its_gradient_are_those_of_the_paper(name, how):
    # kl is a constant: its own change with the policy is no part of the gradient
    still = trial.written_out(ROWS, POLICY, REFERENCE)

    def reference(policy):
        rows = trial.written_out(ROWS, policy, REFERENCE)
        fixed = [(dataclasses.replace(a, other=b.other),) for (a,), (b,) in zip(rows, still, strict=True)]
        return getattr(references, name)(fixed, **how)

    checks.agrees(measured(Kto(anchored=FORMS[name], **how)), reference)


def test_the_reference_point_is_never_below_zero():
    found = [measured(Kto()), measured(Kto(), policy=REFERENCE, reference=POLICY)]
    kls = [each.metrics['kl'] for each in found]
    rows = [trial.written_out(ROWS, *models) for models in ((POLICY, REFERENCE), (REFERENCE, POLICY))]
    plain = [np.mean([a.other[0] - a.other[1] for (a,) in step]) for step in rows]
    assert min(plain) < 0 < max(plain)
    assert kls == pytest.approx([max(0.0, value) for value in plain])


@pytest.mark.parametrize('name', FORMS)
@pytest.mark.parametrize('split', checks.SPLITS)
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(split, name):
    objective = Kto(anchored=FORMS[name], **WEIGHTS)
    checks.same(measured(objective, split=split), measured(objective))


@pytest.mark.parametrize('name', FORMS)
def test_a_wrong_label_is_found(name):
    turned = [dataclasses.replace(row, label=(1 - row.label[0],)) for row in ROWS]
    reference = lambda policy: getattr(references, name)(trial.written_out(ROWS, policy, REFERENCE))
    with pytest.raises(AssertionError):
        checks.agrees(measured(Kto(anchored=FORMS[name]), turned), reference)


def test_each_prompt_meets_the_answer_of_the_row_before_wherever_that_lies():
    step = trial.batches(ROWS, [[4, 1], [0], [5, 3, 2]])
    parts = [trial.sequences(row)[0] for row in ROWS]
    for batch, order in zip(mismatched(step), [[4, 1], [0], [5, 3, 2]], strict=True):
        expected = [parts[i][0][: parts[i][1]] + parts[i - 1][0][parts[i - 1][1] :] for i in order]
        assert [part.tolist() for part in batch.input_ids.split(batch.segments.lengths)] == expected
        assert batch.segments.prefix_of == ()
        answered = batch.weight.split(batch.segments.lengths)
        assert [int(part.sum()) for part in answered] == [len(parts[i - 1][0]) - parts[i - 1][1] for i in order]
        positions = batch.position_ids.split(batch.segments.lengths)
        assert all(part.tolist() == list(range(len(part))) for part in positions)


def test_metrics_are_told_by_their_established_names():
    found = measured(Kto(beta=0.3)).metrics
    rows = [answer for (answer,) in trial.written_out(ROWS, POLICY, REFERENCE)]
    mean = lambda label, value: np.mean([value(row) for row in rows if row.label == label])
    reward = lambda row: 0.3 * (np.sum(row.logps) - np.sum(row.ref))
    assert found['rewards/chosen'] == pytest.approx(mean(1, reward))
    assert found['rewards/rejected'] == pytest.approx(mean(0, reward))
    assert found['rewards/margins'] == pytest.approx(mean(1, reward) - mean(0, reward))
    assert found['logps/chosen'] == pytest.approx(mean(1, lambda row: np.sum(row.logps)))
    assert found['logps/rejected'] == pytest.approx(mean(0, lambda row: np.sum(row.logps)))


def test_a_step_of_one_row_has_no_other_answer_and_no_margin():
    found = measured(Kto(), ROWS[:1], [[0]])
    assert found.metrics['kl'] == 0 and found.metrics['rewards/margins'] == 0
    assert np.isfinite(found.loss)


def test_a_cache_of_log_probabilities_is_not_enough():
    step = trial.batches(ROWS, WHOLE)
    with pytest.raises(ConfigError, match='apo_zero_unpaired'):
        Kto().prepare(step, lambda step: [trial.outputs(POLICY, batch) for batch in step], None)
    Kto(anchored=False).prepare(step, lambda step: [], None)


@pytest.mark.parametrize('size', [1e2, 1e4, 1e6, -1e2, -1e4, -1e6])
@pytest.mark.parametrize('kl', [0.0, 1e6])
def test_huge_ratios_give_finite_losses_and_gradients_in_float32(size, kl):
    batch = Batch(
        input_ids=torch.zeros(4, dtype=torch.long),
        position_ids=torch.arange(4),
        segments=Segments((1, 1, 1, 1), (-1, 0, -1, 2)),
        weight=torch.tensor([0.0, 1.0] * 2),
        labels=((1.0,), (0.0,)),
        places=(0, 1),
        streams={'ref_logps': torch.zeros(4), 'kl': torch.full((2,), kl), 'margin_share': torch.zeros(2)},
    )
    logps = torch.tensor([0, size, 0, size], requires_grad=True)
    loss = Kto()(Outputs(logps), batch)
    loss.total.backward()
    assert torch.isfinite(loss.total) and torch.isfinite(logps.grad).all()
