"""Packed attention against separate sequences, on every architecture of the tiny world."""

import pytest
import torch

from swift.core.types import Segments
from swift.kernels import attention
from tests import tiny

LENGTHS = (1, 9, 4, 17)


def packed(model, ids, lengths):
    positions = torch.cat([torch.arange(n) for n in lengths])
    return model(input_ids=ids[None], position_ids=positions[None], segments=Segments(lengths), use_cache=False).logits[
        0
    ]


@pytest.mark.parametrize('architecture', tiny.SIZES)
def test_packed_equals_separate_forward_and_backward(architecture):
    model = tiny.model(architecture, dtype='float64')
    ids = torch.randint(0, 400, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    plain = [model(input_ids=part[None], use_cache=False).logits[0] for part in ids.split(LENGTHS)]
    expected = torch.cat(plain)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()

    assert attention.install(model, 64) is None
    found = packed(model, ids, LENGTHS)
    found.square().sum().backward()
    rtol = 1e-5 if architecture == 'gemma2' else 1e-9  # Gemma 2's own eager softmax is fp32 whatever the weights
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol / 10)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=rtol * 10, atol=rtol)


def test_gradient_checkpointing_keeps_the_segments():
    model = tiny.model(dtype='float64').train()
    assert attention.install(model, 64) is None
    ids = torch.arange(sum(LENGTHS)) % 400
    packed(model, ids, LENGTHS).square().sum().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({'use_reentrant': False})
    packed(model, ids, LENGTHS).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain[name])


def test_a_recurrent_model_is_found_out_and_left_as_it_was():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model('mamba', vocab_size=400, hidden_size=32, num_hidden_layers=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    before = model.config._attn_implementation
    assert 'sees the one packed before it' in attention.install(model, 64)
    assert model.config._attn_implementation == before


def test_chunked_attention_packs_only_below_its_chunk():
    model = tiny.model()
    model.config.layer_types = ['chunked_attention', 'full_attention']
    model.config.attention_chunk_size = 32
    assert 'chunked attention of 32' in attention.install(model, 64)
    assert attention.install(model, 32) is None


def test_sinks_and_softcap_equal_the_models_own_eager_attention():
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    module = torch.nn.Module()
    module.sinks, module.num_key_value_groups, module.is_causal = torch.randn(4), 2, True
    mask = torch.full((6, 6), float('-inf')).triu(1)[None, None]
    expected, _ = eager_attention_forward(module, query, key, value, mask, scaling=0.3)
    found, _ = attention.packed_attention(module, query, key, value, None, scaling=0.3, s_aux=module.sinks)
    torch.testing.assert_close(found, expected)
