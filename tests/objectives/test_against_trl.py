"""Values, gradients and metrics of TRL 1.16 on the same log-probabilities, for every method it has."""

from functools import partial

import numpy as np
import pytest
import torch

from swift.objectives import trial
from swift.objectives.preference import LOSSES, Preference
from tests.objectives import peers

POLICY, REFERENCE = trial.Weights.random(1), trial.Weights.random(2)
PAIRS = trial.preferences(3)
WHOLE = [range(len(PAIRS))]


def ours(objective, rows=PAIRS):
    return trial.measure(objective, trial.batches(rows, WHOLE), POLICY, REFERENCE)


def same(found, loss, gradient, metrics, names, *, tolerance=1e-6):
    assert found.loss == pytest.approx(loss, rel=tolerance)
    np.testing.assert_allclose(found.gradient, gradient, atol=tolerance * max(1.0, np.abs(gradient).max()))
    for name in names:
        assert found.metrics[name] == pytest.approx(metrics[name], rel=tolerance, abs=tolerance), name


# --------------------------------------------------------------------------------------------------------------- DPO
REWARDS = (
    'rewards/chosen',
    'rewards/rejected',
    'rewards/accuracies',
    'rewards/margins',
    'logps/chosen',
    'logps/rejected',
)
CASES = {
    **{name: {'loss_types': [name]} for name in (*LOSSES, 'sft')},
    **{f'{name} smoothed': {'loss_types': [name], 'label_smoothing': 0.1} for name in ('robust', 'exo_pair', 'aot')},
    'MPO': {'loss_types': ['sigmoid', 'bco_pair', 'sft'], 'loss_weights': [0.8, 0.2, 1.0]},
    'LD-DPO': {'loss_types': ['sigmoid'], 'ld_alpha': 0.3},
    'LD-IPO': {'loss_types': ['ipo'], 'ld_alpha': 0.3},
    **{d: {'loss_types': ['ipo', 'sigmoid'], 'f_divergence_type': d} for d in ('forward_kl', 'js_divergence')},
    'alpha_divergence': {'loss_types': ['hinge'], 'f_divergence_type': 'alpha_divergence'},
}


def trl_dpo(loss_types, loss_weights=None, ld_alpha=None, label_smoothing=0.0, f_divergence_type='reverse_kl'):
    from trl.trainer.dpo_trainer import DPOTrainer

    single = f_divergence_type == 'alpha_divergence'  # TRL knows no float64 there
    model = partial(peers.bigram, dtype=torch.float32 if single else torch.float64)
    made = peers.trainer(
        DPOTrainer,
        beta=0.2, loss_types=loss_types, loss_weights=loss_weights or [1.0] * len(loss_types), ld_alpha=ld_alpha,
        label_smoothing=label_smoothing or (1e-3 if 'exo_pair' in loss_types else 0.0), use_weighting=False,
        f_divergence_type=f_divergence_type, f_alpha_divergence_coef=0.4, precompute_ref_logps=False,
        ref_model=model(REFERENCE),
    )  # fmt: skip
    made.args = made.accelerator  # only read for options that are not at stake
    made.args.discopop_tau, made.args.gradient_checkpointing_kwargs = 0.05, None
    made.model.is_gradient_checkpointing = False
    inputs = peers.padded([*peers.sequences(PAIRS, 0), *peers.sequences(PAIRS, 1)])
    loss, gradient, _ = peers.differentiated(
        lambda weights: (made._compute_loss(model(weights), inputs, return_outputs=False), None), POLICY
    )
    return loss, gradient, made._metrics['train'].means()


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_dpo_is_that_of_trl(case):
    weights = case.get('loss_weights') or [1.0] * len(case['loss_types'])
    objective = Preference(
        losses=dict(zip(case['loss_types'], weights, strict=True)),
        beta=0.2,
        ld_alpha=case.get('ld_alpha'),
        label_smoothing=case.get('label_smoothing', 0.0),
        divergence=case.get('f_divergence_type', 'reverse_kl'),
        divergence_alpha=0.4,
    )
    tolerance = 1e-5 if objective.divergence == 'alpha_divergence' else 1e-6
    same(ours(objective), *trl_dpo(**case), [*REWARDS, 'mean_token_accuracy'], tolerance=tolerance)
