"""Greedy tokens equal those of transformers' own generate, alone and in batches that rows join and leave."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swift.core.types import Request, Sampling
from tests import tiny
from tests.engines.plain import STOP, ask, engine, prompts, reference

SMALL = {
    'vocab_size': 400,
    'bos_token_id': 1,
    'eos_token_id': 2,
    'pad_token_id': 0,
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'num_hidden_layers': 3,
}
MORE = {
    'qwen3_next': {
        'head_dim': 8,
        'linear_num_value_heads': 4,
        'linear_num_key_heads': 2,
        'linear_key_head_dim': 8,
        'linear_value_head_dim': 8,
        'moe_intermediate_size': 16,
        'shared_expert_intermediate_size': 16,
        'num_experts': 4,
        'num_experts_per_tok': 2,
        'layer_types': ['linear_attention', 'full_attention', 'linear_attention'],
    },
    'gpt_oss': {'head_dim': 8, 'sliding_window': 8, 'num_local_experts': 4, 'num_experts_per_tok': 2},
    'llama4_text': {'head_dim': 8, 'attention_chunk_size': 8, 'num_local_experts': 2, 'intermediate_size_mlp': 64},
    'bloom': {'n_layer': 2, 'n_head': 4},
    'mamba2': {'state_size': 8, 'num_heads': 8, 'head_dim': 8, 'n_groups': 2, 'expand': 2},
    'falcon_h1': {'mamba_d_ssm': 64, 'mamba_n_heads': 8, 'mamba_d_head': 8, 'mamba_n_groups': 2, 'mamba_d_state': 8},
}  # linear attention, sinks, chunks, ALiBi, pure state space, a cache whose rows cannot be joined


def lively(architecture: str):
    """A random model whose greedy answers are no loop over one token."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = AutoConfig.for_model(architecture, **{**SMALL, **MORE[architecture]})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    return model


def check(model) -> None:
    counts = (30, 24, 18, 12, 6)  # rows leave at different steps; the fifth joins a batch of four under way
    wanted = [reference(model, prompt, count) for prompt, count in zip(prompts(), counts, strict=True)]
    assert len({tuple(answer) for answer in wanted}) == len(wanted)
    with engine(model, max_batch_size=4) as native:
        alone = [ask(native, [prompt], Sampling(max_tokens=n))[0] for prompt, n in zip(prompts(), counts, strict=True)]
        together = ask(native, prompts(), *(Sampling(max_tokens=n) for n in counts))
    assert alone == wanted
    assert together == wanted


@pytest.mark.parametrize('architecture', sorted(tiny.SIZES))
def test_greedy_tokens_equal_generate_alone_and_in_a_batch(architecture):
    check(tiny.model(architecture))


@pytest.mark.parametrize('architecture', sorted(MORE))
def test_unusual_caches_give_the_same_tokens_too(architecture):
    check(lively(architecture))


def test_eager_attention_gives_the_same_tokens():
    check(tiny.model('gemma2', attn_implementation='eager'))


def test_prompts_that_do_not_fit_one_prefill_give_the_same_tokens():
    model = tiny.model('llama')
    wanted = [reference(model, prompt, 8) for prompt in prompts()]
    with engine(model, max_prefill_tokens=8) as native:
        assert ask(native, prompts(), Sampling(max_tokens=8)) == wanted


def test_an_answer_ends_with_the_stop_token_and_the_context():
    model = tiny.model('llama')
    prompt = prompts()[2]
    free = reference(model, prompt, 20, eos_token_id=-1)
    with engine(model, stop_ids=(free[5],), max_model_len=len(prompt) + 9) as native:
        stopped = list(native.stream(Request('a', tuple(prompt), Sampling(max_tokens=20))))
    with engine(model, stop_ids=(), max_model_len=len(prompt) + 9) as native:
        full = list(native.stream(Request('a', tuple(prompt), Sampling(max_tokens=20))))
    cut = free.index(free[5]) + 1
    assert [id for piece in stopped for id in piece.ids] == free[:cut]
    assert stopped[-1].finish == 'stop'
    assert [id for piece in full for id in piece.ids] == free[:9]
    assert full[-1].finish == 'length'


def test_several_choices_of_a_greedy_request_are_alike():
    with engine(tiny.model('mistral')) as native:
        pieces = list(native.stream(Request('a', tuple(prompts()[1]), Sampling(max_tokens=6, n=3))))
    answers = [[id for piece in pieces if piece.index == i for id in piece.ids] for i in range(3)]
    assert answers == [reference(tiny.model('mistral'), prompts()[1], 6)] * 3
    assert [piece.finish for piece in pieces].count('length') == 3
    assert STOP not in answers[0]
