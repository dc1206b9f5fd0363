"""Models that see, of the tiny size: one folder a family, with its own processor, made from a seed.

Templates and special tokens are those of the families' checkpoints, as short as they can be. Nothing is downloaded.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests import tiny

TEXT = {'vocab_size': 420, 'num_hidden_layers': 2, 'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 0, **tiny.SIZE}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PARTS = (  # one that wants content in parts, and begins without the first token
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How the tiny model of a family is made: ids of ``tokens`` go into its config by the names of their fields."""

    template: str
    tokens: Mapping[str, str]
    config: Mapping[str, Any]
    image_processor: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)  # tokens that the tokenizer knows by a name
    more: tuple[str, ...] = ()
    first: bool = False  # the tokenizer puts its first token before texts


CLIP = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2}
FAMILIES = {
    'qwen2_vl': Family(
        CHATML.replace('PICTURE', '<|vision_start|><|image_pad|><|vision_end|>'),
        {
            'vision_start_token_id': '<|vision_start|>', 'vision_end_token_id': '<|vision_end|>',
            'image_token_id': '<|image_pad|>', 'video_token_id': '<|video_pad|>',
        },
        {
            'text_config': {**TEXT, 'rope_parameters': {'rope_type': 'default', 'mrope_section': [1, 1, 2]}},
            'vision_config': {
                'depth': 2, 'embed_dim': 16, 'hidden_size': 32, 'num_heads': 2, 'mlp_ratio': 2, 'patch_size': 14,
            },
        },
        {'size': {'shortest_edge': 28 * 28, 'longest_edge': 28 * 28 * 16}},
    ),
    'llava': Family(
        PARTS,
        {'image_token_index': '<image>'},
        {
            'text_config': {'model_type': 'llama', **TEXT},
            'vision_config': {'model_type': 'clip_vision_model', **CLIP, 'image_size': 28, 'patch_size': 14},
        },
        {'size': {'shortest_edge': 28}, 'crop_size': {'height': 28, 'width': 28}},
        {'patch_size': 14, 'vision_feature_select_strategy': 'default', 'num_additional_image_tokens': 1},
        first=True,
    ),
    'gemma3': Family(
        CHATML.replace('PICTURE', '<start_of_image>'),
        {
            'boi_token_index': '<start_of_image>', 'eoi_token_index': '<end_of_image>',
            'image_token_index': '<image_soft_token>',
        },
        {
            'text_config': {
                **TEXT, 'head_dim': 8, 'sliding_window': 16, 'query_pre_attn_scalar': 8, 'tie_word_embeddings': False,
            },
            'vision_config': {**CLIP, 'image_size': 28, 'patch_size': 7},
            'mm_tokens_per_image': 4, 'tie_word_embeddings': False,
        },
        {'size': {'height': 28, 'width': 28}},
        {'image_seq_length': 4},
        {'boi_token': '<start_of_image>', 'eoi_token': '<end_of_image>', 'image_token': '<image_soft_token>'},
    ),
    'idefics3': Family(
        CHATML.replace('PICTURE', '<image>'),
        {'image_token_id': '<image>'},
        {
            'text_config': {'model_type': 'llama', **TEXT},
            'vision_config': {**CLIP, 'image_size': 28, 'patch_size': 7},
            'scale_factor': 2,
        },
        {'size': {'longest_edge': 56}, 'max_image_size': {'longest_edge': 28}},
        {'image_seq_len': 4},
        more=('<fake_token_around_image>', '<global-img>', *(f'<row_{i}_col_{j}>' for i in (1, 2) for j in (1, 2))),
    ),
}  # fmt: skip


def tokenizer(family: Family):
    """The tiny tokenizer with the family's own tokens and template."""
    from tokenizers.processors import TemplateProcessing

    made = tiny.tokenizer(family.template)
    made.add_special_tokens({'additional_special_tokens': [*family.tokens.values(), *family.more]})
    if family.first:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single='<|im_start|> $A', special_tokens=[('<|im_start|>', made.bos_token_id)]
        )
    if family.named:
        names = {name: getattr(made, name) for name in ('bos_token', 'eos_token', 'pad_token', 'unk_token')}
        made = type(made)(tokenizer_object=made.backend_tokenizer, **names, extra_special_tokens=dict(family.named))
        made.chat_template = family.template
    return made


def folder(path: Path, name: str, *, seed: int = 0, dtype: str = 'float32') -> Path:
    """Write a whole model folder and return it."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    family = FAMILIES[name]
    words = tokenizer(family)
    ids = {key: words.convert_tokens_to_ids(token) for key, token in family.tokens.items()}
    config = AutoConfig.for_model(name, **family.config, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype)).eval()
        for weight in model.parameters():  # as large as those of trained models, so that pictures change answers
            if weight.dim() > 1:
                weight.data += torch.randn_like(weight) * 0.2
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    words.save_pretrained(path)
    kind = {'image_processor_type': IMAGE_PROCESSOR_MAPPING_NAMES[name]['torchvision']}
    (path / 'preprocessor_config.json').write_text(json.dumps({**kind, **family.image_processor}))
    named = {'processor_class': PROCESSOR_MAPPING_NAMES[name], **family.processor}
    (path / 'processor_config.json').write_text(json.dumps(named))
    return path


@cache
def picture(seed: int, width: int = 40, height: int = 40, form: str = 'PNG') -> bytes:
    """A file of random pixels."""
    import numpy as np
    from PIL import Image

    kept = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(kept, form)
    return kept.getvalue()
