"""KTO: its reference point, metrics and hostile numbers; the formula itself is tried in test_catalog."""

import dataclasses

import numpy as np
import pytest
import torch

from swift.core.errors import ConfigError
from swift.core.types import Batch, Outputs, Segments
from swift.objectives import references, trial
from swift.objectives.kto import Kto, mismatched
from tests.objectives.checks import POLICY, REFERENCE, WHOLE, agrees, measured

ROWS = trial.verdicts(0)


def test_the_reference_point_is_never_below_zero():
    found = [measured(Kto(), ROWS), measured(Kto(), ROWS, policy=REFERENCE, reference=POLICY)]
    kls = [each.metrics['kl'] for each in found]
    rows = [trial.written_out(ROWS, *models) for models in ((POLICY, REFERENCE), (REFERENCE, POLICY))]
    plain = [np.mean([a.other[0] - a.other[1] for (a,) in step]) for step in rows]
    assert plain[0] > 0 > plain[1]
    assert kls == pytest.approx([plain[0], 0.0])


def test_a_wrong_label_is_found():
    turned = lambda rows: references.kto([(dataclasses.replace(a, label=1 - a.label),) for (a,) in rows])
    with pytest.raises(AssertionError):
        agrees(Kto(), ROWS, turned)


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
    found = measured(Kto(beta=0.3), ROWS).metrics
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
        Kto().prepare(step, lambda step: [trial.View()(POLICY, batch) for batch in step], None)
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
