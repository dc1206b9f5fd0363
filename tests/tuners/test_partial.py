"""Which parameters learn under the freeze flags."""

import pytest

from swift.core.errors import ConfigError
from swift.tuners.args import TunerArgs
from swift.tuners.partial import freeze_
from tests import tiny


def trained(**flags):
    model = freeze_(tiny.model(), TunerArgs(tuner_type='full', **flags))
    return {name for name, p in model.named_parameters() if p.requires_grad}


ALL = {name for name, _ in tiny.model().named_parameters()}


def test_full_trains_everything():
    assert trained() == ALL


def test_prefixes_regex_and_exceptions_combine():
    found = trained(
        freeze_parameters=['model.layers.0', 'model.embed'],
        freeze_parameters_regex=r'norm',
        trainable_parameters=['model.layers.0.mlp'],
        trainable_parameters_regex=r'^model\.norm',
    )
    assert 'model.norm.weight' in found
    assert 'model.layers.0.mlp.up_proj.weight' in found
    assert 'model.layers.0.self_attn.q_proj.weight' not in found
    assert 'model.layers.1.input_layernorm.weight' not in found
    assert 'model.embed_tokens.weight' not in found


def test_a_share_freezes_from_the_input_side():
    sizes = {name: p.numel() for name, p in tiny.model().named_parameters()}
    frozen = ALL - trained(freeze_parameters_ratio=0.5)
    assert 'model.embed_tokens.weight' in frozen
    assert 'model.layers.1.mlp.down_proj.weight' not in frozen
    assert sum(sizes[name] for name in frozen) <= 0.5 * sum(sizes.values())


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'freeze_parameters': ['modle']}, 'no parameter starts with it'),
        ({'freeze_parameters_regex': '('}, 'not a regular expression'),
        ({'trainable_parameters_regex': 'xyz'}, 'matches no parameter'),
        ({'freeze_parameters_ratio': 1.0}, 'every parameter is frozen'),
        ({'freeze_parameters_ratio': 2.0}, 'between 0 and 1'),
    ],
)
def test_names_that_match_nothing_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        trained(**flags)
