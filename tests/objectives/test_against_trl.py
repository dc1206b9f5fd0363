"""Values, gradients and metrics of TRL 1.16 on the same log-probabilities, for every method it has."""

import dataclasses

import numpy as np
import pytest

from swift.objectives import trial
from swift.objectives.args import ObjectiveArgs
from swift.objectives.catalog import FAMILY
from swift.objectives.kto import from_args as our_kto
from swift.objectives.no_reference import contrast
from swift.objectives.no_reference import orpo as our_orpo
from swift.objectives.preference import from_args as our_dpo
from swift.objectives.reward import from_args as our_reward
from swift.verify import peers

POLICY, REFERENCE = trial.Weights.random(1), trial.Weights.random(2)
PAIRS, VERDICTS = trial.preferences(3), trial.verdicts(3)
REWARDS = (
    'rewards/chosen',
    'rewards/rejected',
    'rewards/accuracies',
    'rewards/margins',
    'logps/chosen',
    'logps/rejected',
)


def ours(objective, rows, policy=POLICY, reference=REFERENCE):
    return trial.measure(objective, trial.batches(rows, [range(len(rows))]), policy, reference)


def same(found, expected, names, *, tolerance=1e-6):
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)
    most = max(1.0, np.abs(expected.gradient).max())
    np.testing.assert_allclose(found.gradient, expected.gradient, atol=tolerance * most)
    for name in names:
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=tolerance, abs=tolerance), name


CASES = {
    **{name: {'loss_type': [name]} for name in (*FAMILY, 'sft')},
    **{f'{name} smoothed': {'loss_type': [name], 'label_smoothing': 0.1} for name in ('robust', 'exo_pair', 'aot')},
    'MPO': {'loss_type': ['sigmoid', 'bco_pair', 'sft'], 'loss_weights': [0.8, 0.2, 1.0]},
    'LD-DPO': {'ld_alpha': 0.3},
    'LD-IPO': {'loss_type': ['ipo'], 'ld_alpha': 0.3},
    **{d: {'loss_type': ['ipo', 'sigmoid'], 'f_divergence_type': d} for d in ('forward_kl', 'js_divergence')},
    'alpha_divergence': {'loss_type': ['hinge'], 'f_divergence_type': 'alpha_divergence'},
}


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_dpo_is_that_of_trl(case):
    args = ObjectiveArgs(beta=0.2, f_alpha_divergence_coef=0.4, **case)
    tolerance = 1e-5 if args.f_divergence_type == 'alpha_divergence' else 1e-6
    expected = peers.dpo(args, PAIRS, POLICY, REFERENCE)
    same(ours(our_dpo(args), PAIRS), expected, [*REWARDS, 'mean_token_accuracy'], tolerance=tolerance)


@pytest.mark.parametrize('loss_type', ['kto', 'apo_zero_unpaired'])
@pytest.mark.parametrize('models', [(POLICY, REFERENCE), (REFERENCE, POLICY)], ids=['kl above 0', 'kl of 0'])
def test_kto_is_that_of_trl(models, loss_type):
    args = ObjectiveArgs(rlhf_type='kto', loss_type=[loss_type], beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    names = ('kl', 'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'logps/chosen', 'logps/rejected')
    same(ours(our_kto(args), VERDICTS, *models), peers.kto(args, VERDICTS, *models), names)


@pytest.mark.parametrize('alpha', [0.0, 0.6])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('loss_type', ['sigmoid', 'hinge', 'ipo', 'simpo'])
def test_cpo_and_simpo_are_those_of_trl(loss_type, smoothing, alpha):
    args = ObjectiveArgs(
        rlhf_type='cpo', loss_type=[loss_type], beta=0.3, label_smoothing=smoothing, simpo_gamma=0.7, cpo_alpha=alpha
    )
    names = [*REWARDS, *(['nll_loss'] if alpha else [])]
    same(ours(contrast(args), PAIRS), peers.cpo(args, PAIRS, POLICY, REFERENCE), names)


def test_orpo_is_that_of_trl_where_the_prompt_has_nothing_to_learn():
    """TRL's next-token loss takes the prompt in; of a prompt of one token there is nothing to predict."""
    args, rows = ObjectiveArgs(rlhf_type='orpo', beta=0.3), trial.preferences(3, prompts=(1,))
    names = [*REWARDS, 'nll_loss', 'log_odds_ratio', 'log_odds_chosen']
    expected = peers.orpo(args, rows, POLICY, REFERENCE)
    same(ours(our_orpo(args), rows), expected, names, tolerance=1e-5)  # TRL takes the odds in float32


def test_the_odds_ratio_of_orpo_is_that_of_trl_for_any_prompt():
    args = ObjectiveArgs(rlhf_type='orpo', beta=0.3)
    found, expected = ours(our_orpo(args), PAIRS), peers.orpo(args, PAIRS, POLICY, REFERENCE)
    rest = [each.loss - each.metrics['nll_loss'] for each in (found, expected)]
    assert rest[0] == pytest.approx(rest[1], rel=1e-5)
    assert found.metrics['log_odds_ratio'] == pytest.approx(expected.metrics['log_odds_ratio'], rel=1e-5)


@pytest.mark.parametrize('centering', [None, 0.05])
@pytest.mark.parametrize('margins', [True, False])
def test_the_reward_loss_is_that_of_trl(margins, centering):
    rows = PAIRS if margins else [dataclasses.replace(row, label=()) for row in PAIRS]
    args = ObjectiveArgs(rlhf_type='rm', center_rewards_coefficient=centering)
    expected = peers.reward(args, rows, POLICY, REFERENCE)
    same(ours(our_reward(args), rows), expected, ('accuracy', 'margin', 'mean_reward'))
