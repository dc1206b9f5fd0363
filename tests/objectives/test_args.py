"""Flags of objectives: what they mean together, and what is refused."""

import pytest

from swift.objectives import kto, no_reference, preference, reward
from swift.objectives.args import ObjectiveArgs, notes, problems


@pytest.mark.parametrize(('method', 'beta'), [('dpo', 0.1), ('simpo', 2.0), ('orpo', 0.1), ('gkd', 0.5)])
def test_beta_is_the_methods_own_unless_given(method, beta):
    assert ObjectiveArgs(rlhf_type=method).strength == beta
    assert ObjectiveArgs(rlhf_type=method, beta=0.3).strength == 0.3


def test_rpo_alpha_adds_the_next_token_loss():
    assert ObjectiveArgs(rpo_alpha=0.5).losses == {'sigmoid': 1.0, 'sft': 0.5}
    assert ObjectiveArgs(loss_type=['ipo', 'sft'], loss_weights=[2, 1], rpo_alpha=0.5).losses == {'ipo': 2, 'sft': 1.5}


@pytest.mark.parametrize(
    ('given', 'flag', 'word'),
    [
        ({'loss_type': ['sigmoyd']}, 'loss_type', 'sigmoyd'),
        ({'rlhf_type': 'rm', 'loss_type': ['hinge']}, 'loss_type', 'one loss only'),
        ({'rlhf_type': 'cpo', 'loss_type': ['hinge', 'ipo']}, 'loss_type', 'several'),
        ({'loss_type': ['ipo', 'ipo']}, 'loss_type', 'twice'),
        ({'loss_type': ['ipo', 'sft'], 'loss_weights': [1.0]}, 'loss_weights', '1 weights for 2'),
        ({'loss_type': ['apo_zero'], 'f_divergence_type': 'forward_kl'}, 'f_divergence_type loss_type', 'apo_zero'),
        ({'label_smoothing': 0.5}, 'label_smoothing', 'below 0.5'),
        ({'beta': 0.0}, 'beta', 'more than 0'),
        ({'ld_alpha': 1.5}, 'ld_alpha', '0 to 1'),
        ({'discopop_tau': 0.0}, 'discopop_tau', '0.05'),
        ({'rlhf_type': 'kto', 'ld_alpha': 0.5}, 'ld_alpha', 'dpo'),
    ],
)
def test_what_cannot_work_is_said(given, flag, word):
    [(flags, text)] = problems(ObjectiveArgs(**given))
    assert flags == flag and word in text


def test_what_works_is_left_alone():
    assert problems(ObjectiveArgs(loss_type=['sigmoid', 'bco_pair', 'sft'], loss_weights=[0.8, 0.2, 1.0])) == []
    assert problems(ObjectiveArgs(rlhf_type='grpo', beta=0.0)) == []


def test_the_flags_reach_the_objective():
    made = kto.from_args(ObjectiveArgs(rlhf_type='kto', loss_type=['apo_zero_unpaired'], undesirable_weight=1.5))
    assert (made.anchored, made.undesirable_weight, made.beta) == (False, 1.5, 0.1)
    made = no_reference.contrast(ObjectiveArgs(rlhf_type='simpo', simpo_gamma=0.7, cpo_alpha=0.0))
    assert (made.loss, made.beta, made.gamma, made.alpha) == ('simpo', 2.0, 0.7, 0.0)
    made = reward.from_args(ObjectiveArgs(rlhf_type='rm', center_rewards_coefficient=0.01))
    assert made.centering == 0.01
    free = preference.from_args(ObjectiveArgs(reference_free=True, loss_type=['ipo'], ld_alpha=0.2))
    assert (free.losses, free.ld_alpha, 'ref_logps' in free.needs) == ({'ipo': 1.0}, 0.2, False)


def test_the_name_that_changed_its_meaning_is_told():
    assert notes(ObjectiveArgs()) == []
    assert 'aot_unpaired' in notes(ObjectiveArgs(loss_type=['aot']))[0]
    old = ObjectiveArgs(loss_type=['aot_pair'])
    assert problems(old) == notes(old) == [] and old.losses == {'aot': 1.0}
