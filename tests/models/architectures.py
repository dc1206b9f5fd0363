"""Tiny folders of many architectures, beyond those of ``tests.tiny``: each a plain transformers folder."""

from __future__ import annotations

from pathlib import Path

from tests import tiny

HEADS = {'num_attention_heads': 4, 'num_key_value_heads': 2}
SMALL = dict(hidden_size=32, intermediate_size=64, **HEADS)
MOE = {'moe_intermediate_size': 16, 'num_experts_per_tok': 2}

MORE = {
    'mixtral': dict(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    'qwen2_moe': dict(**SMALL, **MOE, num_experts=4, shared_expert_intermediate_size=16),
    'qwen3_moe': dict(**SMALL, **MOE, num_experts=4, head_dim=8),
    'phi3': dict(**SMALL),
    'granite': dict(**SMALL),
    'olmo2': dict(**SMALL),
    'smollm3': dict(**SMALL),
    'gemma3_text': dict(**SMALL, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    'cohere': dict(**SMALL),
    'glm4': dict(**SMALL, head_dim=8),
    'gpt_neox': {'hidden_size': 32, 'intermediate_size': 64, 'num_attention_heads': 4},
    'falcon': {'hidden_size': 32, 'num_attention_heads': 4},
    'bloom': {'hidden_size': 32, 'n_head': 4, 'n_layer': 2},
    'opt': {'hidden_size': 32, 'ffn_dim': 64, 'num_attention_heads': 4, 'word_embed_proj_dim': 32},
    'gpt_oss': dict(**SMALL, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
    'deepseek_v3': dict(
        **{**SMALL, 'num_key_value_heads': 4},
        **MOE,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
    ),
    'mamba': {'hidden_size': 32, 'state_size': 8, 'time_step_rank': 2},
}
ALL = [*tiny.SIZES, *MORE]


def folder(path: Path, architecture: str, **changes) -> Path:
    """A whole folder of any architecture named here."""
    if architecture in tiny.SIZES:
        return tiny.folder(path, architecture, **changes)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {'num_hidden_layers': 2, **MORE[architecture], **changes}
    config = AutoConfig.for_model(architecture, vocab_size=400, bos_token_id=1, eos_token_id=2, pad_token_id=0, **size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path
