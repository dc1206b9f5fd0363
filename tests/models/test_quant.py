"""Weights quantised while they are loaded, on the CPU."""

from __future__ import annotations

import pytest
import torch

from swift import models
from swift.core.errors import ConfigError, SwiftError
from swift.models.args import ModelArgs
from tests import tiny


@pytest.fixture
def folder(tmp_path):
    """Wide enough for blocks of 64 weights."""
    return tiny.folder(tmp_path / 'wide', hidden_size=64, intermediate_size=128)


def load(folder, **flags):
    return models.load(ModelArgs(model=str(folder), torch_dtype='bfloat16', **flags))


@pytest.mark.parametrize(('bits', 'kind'), [(4, 'Linear4bit'), (8, 'Linear8bitLt')])
def test_linear_layers_become_quantised_ones(folder, bits, kind):
    pytest.importorskip('bitsandbytes')
    model = load(folder, quant_bits=bits).build()
    assert model.is_quantized
    assert type(model.model.layers[0].mlp.up_proj).__name__ == kind
    assert type(model.lm_head).__name__ == 'Linear'
    plain = load(folder).build().to(model.device)
    ids = torch.arange(9, device=model.device)[None] + 5
    with torch.no_grad():
        difference = (model(input_ids=ids).logits - plain(input_ids=ids).logits).float()
    assert 0 < difference.norm() < 0.5 * plain(input_ids=ids).logits.float().norm()


def test_the_flags_of_four_bits_reach_the_library(folder):
    pytest.importorskip('bitsandbytes')
    flags = {'bnb_4bit_quant_type': 'fp4', 'bnb_4bit_use_double_quant': False, 'bnb_4bit_compute_dtype': 'float32'}
    found = load(folder, quant_method='bnb', quant_bits=4, **flags).build().config.quantization_config
    assert (found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == ('fp4', False)
    assert found.bnb_4bit_compute_dtype == torch.float32


@pytest.mark.parametrize(
    'flags', [{'quant_bits': 2}, {'quant_method': 'bnb'}, {'quant_method': 'hqq', 'quant_bits': 4}]
)
def test_what_does_not_exist_is_refused(folder, flags):
    with pytest.raises(ConfigError, match='--quant_'):
        load(folder, **flags)


def test_a_missing_library_is_named_with_the_command_that_installs_it(folder, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'bitsandbytes', None)
    with pytest.raises(SwiftError, match=r'pip install bitsandbytes'):
        load(folder, quant_bits=4)


def test_a_quantised_checkpoint_is_not_quantised_again(folder, tmp_path):
    pytest.importorskip('bitsandbytes')
    load(folder, quant_bits=4).build().save_pretrained(tmp_path / 'four')
    for path in folder.glob('*token*'):
        (tmp_path / 'four' / path.name).write_bytes(path.read_bytes())
    assert load(tmp_path / 'four').build().is_quantized
    with pytest.raises(ConfigError, match='is quantised already'):
        load(tmp_path / 'four', quant_bits=4)
