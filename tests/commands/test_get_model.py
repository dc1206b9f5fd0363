"""The call that articles write."""

from __future__ import annotations

import pytest
import torch

from swift.commands.get_model import get_model
from swift.core.errors import ConfigError
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    return str(tiny.folder(tmp_path / 'tiny', hidden_size=64, intermediate_size=128))


def test_a_model_comes_as_it_is(folder):
    model = get_model(folder, torch_dtype='bfloat16')
    assert (type(model).__name__, model.dtype) == ('LlamaForCausalLM', torch.bfloat16)


def test_a_rank_brings_an_adapter_and_freezes_the_rest(folder):
    model = get_model(folder, lora_rank=4, lora_alpha=8, target_modules=['q_proj'])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all('lora_' in name and 'q_proj' in name for name in trained)
    assert model.peft_config['default'].r == 4


def test_four_bits_and_an_adapter_learn_together(folder):
    pytest.importorskip('bitsandbytes')
    model = get_model(folder, quantization_method='bitsandbytes', quantization_bit=4, lora_rank=8).train()
    assert model.is_quantized
    ids = torch.arange(9, device=model.device)[None] + 5
    model(input_ids=ids, labels=ids).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


def test_an_unknown_argument_gets_the_nearest_names(folder):
    with pytest.raises(ConfigError, match='unknown argument lora_alfa; did you mean lora_alpha'):
        get_model(folder, lora_rank=4, lora_alfa=8)
