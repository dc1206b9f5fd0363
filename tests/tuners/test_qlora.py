"""Adapters on 4-bit weights: loss and gradients equal those on the same weights written out."""

import torch
from torch import nn

from swift.models.args import ModelArgs
from swift.models.builder import load
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny

IDS = torch.arange(24)[None] * 7 % 400


def gradients(model):
    torch.manual_seed(0)
    tuned = attach(model, TunerArgs(lora_dropout=0.0, init_weights='gaussian'))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = 0.05 * torch.randn(parameter.shape)
    loss = tuned.train()(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss), {name: p.grad for name, p in tuned.named_parameters() if p.grad is not None}


def written_out(model):
    """The same model with plain linear layers that hold the dequantised weights."""
    import bitsandbytes

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(child.weight.data, child.weight.quant_state)
                plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                plain.weight = nn.Parameter(weight.float())
                setattr(module, name, plain)
    model.is_quantized = False
    del model.hf_quantizer, model.quantization_method, model.config.quantization_config
    return model


def test_loss_and_gradients_equal_those_on_dequantised_weights(tmp_path):
    folder = tiny.folder(tmp_path, hidden_size=64, intermediate_size=128)
    args = ModelArgs(model=str(folder), quant_method='bnb', quant_bits=4, bnb_4bit_compute_dtype='float32')
    loss, found = gradients(load(args).build())
    expected_loss, expected = gradients(written_out(load(args).build()))
    assert abs(loss - expected_loss) < 1e-5
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 2 * 7
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-6)
