"""Writes a tiny llama as llama.cpp's converter would: its names, its order of rotary rows, its tokenizer tables."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests import tiny

NAMES = {
    'model.embed_tokens.weight': 'token_embd.weight',
    'model.norm.weight': 'output_norm.weight',
    'lm_head.weight': 'output.weight',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
    'post_attention_layernorm': 'ffn_norm',
    'input_layernorm': 'attn_norm',
    'model.layers.': 'blk.',
}


def write(
    path: Path, *, quantise: gguf.GGMLQuantizationType | None = None, scaling: dict | None = None, **tensors
) -> Path:
    """A tiny llama in a GGUF file; ``scaling`` are keys of ``llama.rope.scaling``, ``tensors`` extra ones."""
    model = tiny.model('llama', hidden_size=64, intermediate_size=128, head_dim=16)
    config, out = model.config, gguf.GGUFWriter(path, 'llama')
    out.add_name('tiny')
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(config.rope_parameters['rope_theta'])
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    for key, value in (scaling or {}).items():
        add = (
            out.add_string
            if isinstance(value, str)
            else out.add_float32
            if isinstance(value, float)
            else out.add_uint32
        )
        add(f'llama.rope.scaling.{key}', value)
    _add_tokenizer(out)
    heads = {'q_proj': config.num_attention_heads, 'k_proj': config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        for part, count in heads.items():
            if part in name:
                array = _interleave(array, count)
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if quantise is not None and array.ndim == 2:
            out.add_tensor(name, gguf.quants.quantize(array, quantise), raw_dtype=quantise)
        else:
            out.add_tensor(name, array)
    for name, array in tensors.items():
        out.add_tensor(name.replace('__', '.'), array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours, transformers rotates halves: rows of a head change places."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(out: gguf.GGUFWriter) -> None:
    import json

    tokenizer = tiny.tokenizer()
    inner = json.loads(tokenizer.backend_tokenizer.to_str())['model']
    tokens = sorted(inner['vocab'], key=inner['vocab'].__getitem__)
    special = set(tokenizer.all_special_tokens)
    merges = [each if isinstance(each, str) else ' '.join(each) for each in inner['merges']]
    out.add_tokenizer_model('gpt2')
    out.add_tokenizer_pre('gpt-2')
    out.add_token_list(tokens)
    out.add_token_types([3 if token in special else 1 for token in tokens])
    out.add_token_merges(merges)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_pad_token_id(0)
    out.add_chat_template(tokenizer.chat_template)
