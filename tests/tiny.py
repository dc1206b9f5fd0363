"""The tiny world: a real tokenizer and real transformers models of well under a million parameters, from a seed.

``folder(path, architecture)`` writes a complete model folder (config, weights, tokenizer with ChatML template) that
every command takes for a model. Nothing here is a mock: the same code paths run as with a model of any size.
"""

from __future__ import annotations

import json
from pathlib import Path

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    'The quick brown fox jumps over the lazy dog. Who are you? I am a small language model.',
    'What is the capital of France? The capital of France is Paris. 12 + 30 = 42.',
    'def add(a, b):\n    return a + b\n',
    '你是谁？我是一个小小的语言模型。谢谢！今天天气很好。',
]

# The smallest sizes that still have grouped heads, several layers and every moving part of the architecture.
HEADS = {'num_attention_heads': 4, 'num_key_value_heads': 2}
SIZE = {'hidden_size': 32, 'intermediate_size': 64, **HEADS}
SIZES = {
    'llama': SIZE,
    'qwen2': SIZE,
    'qwen3': {**SIZE, 'head_dim': 8},
    'mistral': {**SIZE, 'sliding_window': 8},
    'gemma2': {**SIZE, 'head_dim': 8, 'sliding_window': 8, 'query_pre_attn_scalar': 8},
    'gpt2': {'n_embd': 32, 'n_head': 4, 'n_inner': 64, 'resid_pdrop': 0.0, 'embd_pdrop': 0.0, 'attn_pdrop': 0.0},
}
LAYERS = {'gpt2': 'n_layer'}


def tokenizer(template: str = CHATML):
    """A byte-level BPE tokenizer with 400 tokens and ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet)
    inner.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token='<|im_start|>',
        eos_token='<|im_end|>',
        pad_token='<|endoftext|>',
        unk_token='<|endoftext|>',
    )
    made.chat_template = template
    return made


def config(architecture: str = 'llama', **changes):
    """A transformers config of the tiny size."""
    from transformers import AutoConfig

    size = {LAYERS.get(architecture, 'num_hidden_layers'): 2, **SIZES.get(architecture, SIZE), **changes}
    return AutoConfig.for_model(architecture, vocab_size=400, bos_token_id=1, eos_token_id=2, pad_token_id=0, **size)


def model(architecture: str = 'llama', *, seed: int = 0, dtype: str = 'float32', **changes):
    """A randomly initialised causal LM, the same for the same seed."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config(architecture, **changes), dtype=getattr(torch, dtype)).eval()


def folder(
    path: Path,
    architecture: str = 'llama',
    *,
    seed: int = 0,
    dtype: str = 'float32',
    template: str = CHATML,
    **changes,
) -> Path:
    """Write a whole model folder and return it."""
    path.mkdir(parents=True, exist_ok=True)
    model(architecture, seed=seed, dtype=dtype, **changes).save_pretrained(path)
    tokenizer(template).save_pretrained(path)
    return path


def rows(path: Path, count: int = 32) -> Path:
    """A jsonl file of ``count`` messages rows of different lengths."""
    words = ' '.join(CORPUS).split()
    with path.open('w', encoding='utf-8') as out:
        for i in range(count):
            question = ' '.join(words[i % 17 : i % 17 + 3 + i % 5])
            answer = ' '.join(words[(i * 7) % 23 : (i * 7) % 23 + 2 + (i * 5) % 11])
            messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
            out.write(json.dumps({'messages': messages}, ensure_ascii=False) + '\n')
    return path
