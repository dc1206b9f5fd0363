"""Two models, and what is measured of objectives on them."""

import pytest

from swift.objectives import trial

POLICY, REFERENCE = trial.Weights.random(2), trial.Weights.random(1)  # of which KTO's kl is above 0
WHOLE = (range(6),)
SPLITS = ([[0, 1, 2], [3, 4, 5]], [[5], [3, 0], [1, 4, 2]], [[i] for i in range(6)])


def measured(objective, rows, split=WHOLE, policy=POLICY, reference=REFERENCE, view=None):
    """Loss, gradient and metrics of a step of these rows."""
    return trial.measure(objective, trial.batches(rows, split), policy, reference, view)


def same(one, other):
    """Loss, gradient and metrics of one step, computed in two ways."""
    assert trial.distance(one, other) < 1e-12
    assert one.metrics == pytest.approx(other.metrics, rel=1e-10)


def agrees(objective, rows, formula, view=None):
    """An objective and its reference: values to rounding, gradients to what differences can tell."""
    found, reference = measured(objective, rows, view=view), trial.by_reference(formula, rows, POLICY, REFERENCE)
    assert found.loss == pytest.approx(reference.loss, rel=1e-10)
    assert found.metrics['loss'] == pytest.approx(found.loss, rel=1e-12)
    assert abs(reference.gradient).max() > 1e-3
    assert trial.distance(found, reference) < 1e-6
