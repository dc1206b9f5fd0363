"""What every objective is held against."""

import numpy as np
import pytest

from swift.objectives import trial

POLICY, REFERENCE = trial.Weights.random(1), trial.Weights.random(2)
SPLITS = ([[0, 1, 2], [3, 4, 5]], [[5], [3, 0], [1, 4, 2]], [[i] for i in range(6)])


def agrees(found, reference, policy=POLICY):
    """Values to rounding, gradients to what differences of the reference can tell."""
    assert found.loss == pytest.approx(reference(policy), rel=1e-10)
    assert found.metrics['loss'] == pytest.approx(found.loss, rel=1e-12)
    slopes = trial.slopes(reference, policy)
    assert np.abs(found.gradient - slopes).max() < 1e-6 * max(1.0, np.abs(slopes).max())


def same(one, other):
    """Loss, gradient and metrics of one step, computed in two ways."""
    assert one.loss == pytest.approx(other.loss, rel=1e-12)
    np.testing.assert_allclose(one.gradient, other.gradient, atol=1e-12)
    assert one.metrics == pytest.approx(other.metrics, rel=1e-10)
