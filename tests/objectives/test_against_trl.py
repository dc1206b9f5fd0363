"""Values, gradients and metrics of TRL 1.16 on the same log-probabilities, for every method it has."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from swift.objectives import trial
from swift.objectives.kto import Kto, mismatched
from swift.objectives.no_reference import Contrast, Orpo
from swift.objectives.preference import LOSSES, Preference
from swift.objectives.reward import BradleyTerry
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
        ref_model=model(REFERENCE), options={'discopop_tau': 0.05},
    )  # fmt: skip
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


# --------------------------------------------------------------------------------------------------------------- KTO
VERDICTS = trial.verdicts(3)


@pytest.mark.parametrize('loss_type', ['kto', 'apo_zero_unpaired'])
@pytest.mark.parametrize('models', [(POLICY, REFERENCE), (REFERENCE, POLICY)], ids=['kl above 0', 'kl of 0'])
def test_kto_is_that_of_trl(models, loss_type):
    from trl.trainer.kto_trainer import KTOTrainer

    policy, reference = models
    made = peers.trainer(
        KTOTrainer,
        beta=0.2, desirable_weight=1.3, undesirable_weight=0.7, loss_type=loss_type, calculate_KL=loss_type == 'kto',
        precompute_ref_logps=False, ref_model=peers.bigram(reference),
    )  # fmt: skip
    step = trial.batches(VERDICTS, WHOLE)
    other = mismatched(step)[0]
    ends = zip(other.input_ids.split(other.segments.lengths), peers.sequences(VERDICTS, 0), strict=True)
    inputs = peers.padded(peers.sequences(VERDICTS, 0))
    inputs |= {f'KL_{key}': value for key, value in peers.padded([(ids.tolist(), n) for ids, (_, n) in ends]).items()}
    inputs['label'] = torch.tensor([row.label[0] == 1 for row in VERDICTS])
    loss, gradient, _ = peers.differentiated(
        lambda weights: (made._compute_loss(peers.bigram(weights), inputs, return_outputs=False), None), policy
    )
    objective = Kto(anchored=loss_type == 'kto', beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    names = ('kl', 'rewards/chosen', 'rewards/rejected', 'rewards/margins', 'logps/chosen', 'logps/rejected')
    same(trial.measure(objective, step, policy, reference), loss, gradient, made._metrics['train'].means(), names)


# ------------------------------------------------------------------------------------------------- without a reference
def halves(rows):
    """Chosen and rejected sequences as TRL's older trainers are given them."""
    batch = {}
    for name, member in (('chosen', 0), ('rejected', 1)):
        half = peers.padded(peers.sequences(rows, member))
        batch[f'{name}_input_ids'], batch[f'{name}_attention_mask'] = half['input_ids'], half['attention_mask']
        batch[f'{name}_labels'] = half['input_ids'].masked_fill(half['completion_mask'] == 0, -100)
    return batch


def trl_without_reference(kind, rows, **attributes):
    made = peers.trainer(
        kind, is_encoder_decoder=False, pad_token_id=0, padding_value=0, label_pad_token_id=-100, **attributes
    )
    batch = halves(rows)
    return peers.differentiated(lambda weights: made.get_batch_loss_metrics(peers.logits(weights), batch), POLICY)


@pytest.mark.parametrize('alpha', [0.0, 0.6])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('loss_type', ['sigmoid', 'hinge', 'ipo', 'simpo'])
def test_cpo_and_simpo_are_those_of_trl(loss_type, smoothing, alpha):
    from trl.experimental.cpo import CPOTrainer

    expected = trl_without_reference(
        CPOTrainer, PAIRS,
        beta=0.3, label_smoothing=smoothing, loss_type=loss_type, simpo_gamma=0.7, cpo_alpha=alpha, alpha=0.0,
    )  # fmt: skip
    objective = Contrast(loss=loss_type, beta=0.3, label_smoothing=smoothing, gamma=0.7, alpha=alpha)
    same(ours(objective), *expected, [*REWARDS, *(['nll_loss'] if alpha else [])])


def test_orpo_is_that_of_trl_where_the_prompt_has_nothing_to_learn(monkeypatch):
    """TRL's next-token loss takes the prompt in; of a prompt of one token there is nothing to predict."""
    from trl.experimental.orpo import ORPOTrainer

    monkeypatch.setattr(trial, 'PROMPTS', (1,))
    rows = trial.preferences(3)
    names = [*REWARDS, 'nll_loss', 'log_odds_ratio', 'log_odds_chosen']
    expected = trl_without_reference(ORPOTrainer, rows, beta=0.3)
    same(ours(Orpo(beta=0.3), rows), *expected, names, tolerance=1e-5)  # TRL takes the odds in float32


def test_the_odds_ratio_of_orpo_is_that_of_trl_for_any_prompt():
    from trl.experimental.orpo import ORPOTrainer

    loss, _, metrics = trl_without_reference(ORPOTrainer, PAIRS, beta=0.3)
    found = ours(Orpo(beta=0.3))
    assert found.loss - found.metrics['nll_loss'] == pytest.approx(loss - metrics['nll_loss'], rel=1e-5)
    assert found.metrics['log_odds_ratio'] == pytest.approx(metrics['log_odds_ratio'], rel=1e-5)


# ------------------------------------------------------------------------------------------------------ reward models
@pytest.mark.parametrize('centering', [None, 0.05])
@pytest.mark.parametrize('margins', [True, False])
def test_the_reward_loss_is_that_of_trl(margins, centering):
    from trl.trainer.reward_trainer import RewardTrainer

    made = peers.trainer(RewardTrainer, options={'center_rewards_coefficient': centering})
    inputs = peers.padded([*peers.sequences(PAIRS, 0), *peers.sequences(PAIRS, 1)])
    rows = PAIRS if margins else [dataclasses.replace(row, label=()) for row in PAIRS]
    if margins:
        inputs['margin'] = torch.tensor([row.label[0] for row in PAIRS], dtype=torch.float64)

    def loss(weights):
        model = lambda input_ids, attention_mask, **_: peers.scored((weights.value[input_ids] * attention_mask).sum(1))
        return made.compute_loss(model, dict(inputs)), None

    value, gradient, _ = peers.differentiated(loss, POLICY)
    found = ours(BradleyTerry(centering=centering or 0.0), rows)
    same(found, value, gradient, made._metrics['train'].means(), ('accuracy', 'margin', 'mean_reward'))
