"""Adapters through peft, and the folder that others open."""

import pytest
import torch
from peft import PeftModel

from swift.core.errors import ConfigError
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach, export
from tests import tiny

IDS = torch.arange(24)[None] * 5 % 400


def nudged(model):
    """Move the trained weights, as training would."""
    torch.manual_seed(11)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


CASES = {
    'lora': {},
    'rslora': {'use_rslora': True},
    'dora': {'use_dora': True},
    'pissa': {'init_weights': 'pissa'},
    'pissa rslora': {'init_weights': 'pissa', 'use_rslora': True},
    'olora': {'init_weights': 'olora'},
    'regex': {'target_regex': r'.*(q|v)_proj'},
    'list': {'target_modules': ['q_proj', 'down_proj']},
    'norms too': {'target_modules': ['all-linear'], 'modules_to_save': ['all-norm', 'lm_head']},
    'bias': {'lora_bias': 'all'},
}


@pytest.mark.parametrize('case', CASES)
def test_the_saved_folder_opens_in_plain_peft_on_the_published_model(case, tmp_path):
    torch.manual_seed(0)
    args = TunerArgs(lora_rank=4, lora_alpha=8, lora_dropout=0.0, **CASES[case])
    tuned = nudged(attach(tiny.model(), args))
    assert not torch.allclose(logits(tuned), logits(tiny.model()), atol=1e-3)
    export(tuned, tmp_path, with_embeddings=False)
    opened = PeftModel.from_pretrained(tiny.model(), tmp_path).eval()
    torch.testing.assert_close(logits(opened), logits(tuned), rtol=1e-4, atol=1e-5)


def test_a_fresh_adapter_changes_nothing():
    for start in ('true', 'pissa', 'olora'):
        tuned = attach(tiny.model(), TunerArgs(init_weights=start)).eval()
        torch.testing.assert_close(logits(tuned), logits(tiny.model()), rtol=1e-4, atol=1e-5)


def test_all_linear_leaves_the_head_alone():
    tuned = attach(tiny.model(), TunerArgs())
    adapted = {name.split('.lora_A')[0] for name, _ in tuned.named_parameters() if 'lora_A' in name}
    assert len(adapted) == 2 * 7
    assert not any('lm_head' in name for name in adapted)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'target_modules': ['no_such']}, 'no_such'),
        ({'target_modules': ['all-router']}, 'all-router'),
        ({'init_weights': 'magic'}, 'magic'),
    ],
)
def test_wrong_targets_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        attach(tiny.model(), TunerArgs(**changes))
