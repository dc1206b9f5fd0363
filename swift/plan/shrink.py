"""A model of the same width with fewer layers and random weights: what a rehearsal runs instead of the model itself."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from swift.models.info import read_config, text_part

DEPTHS = ('num_hidden_layers', 'n_layer', 'num_layers')
"""Names of the number of layers in config.json."""
ENOUGH = 60_000_000  # parameters in layers that a rehearsal may have; more layers give a steadier slope
MOST = 32
TOKENIZER = ('tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt', 'tokenizer_config.json')
COPIED = ('.json', '.jinja', '.txt', '.model', '.py')
OURS = ('config.json', 'args.json', 'manifest.json', 'generation_config.json')


def depth(config: dict[str, Any]) -> int | None:
    """Layers of the model that ``config.json`` describes; None when it does not say."""
    text = text_part(config)
    return next((text[key] for key in DEPTHS if isinstance(text.get(key), int)), None)


def depths(config: dict[str, Any]) -> tuple[int, ...]:
    """The numbers of layers to rehearse with: all of a small model's, else two; empty when config.json does not say."""
    layers = depth(config)
    if not layers:
        return ()
    text = text_part(config)
    width = text.get('hidden_size') or text.get('n_embd') or 0
    most = max(2, min(MOST, layers, ENOUGH // max(1, 12 * width * width)))
    return (layers,) if most >= layers else (max(1, most // 3), most)


def shrunk(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config with that many layers; lists with an entry for each layer become as short."""
    config = copy.deepcopy(config)
    text, before = text_part(config), depth(config)
    for key, value in text.items():
        if key in DEPTHS:
            text[key] = layers
        elif isinstance(value, list) and len(value) == before:
            text[key] = value[:layers]
    return config


def write(source: Path, folder: Path, layers: int, *, trust_remote_code: bool = False) -> Path:
    """Write a model folder with ``layers`` layers of random weights and the tokenizer of ``source``."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix in COPIED and path.name not in OURS and not path.name.endswith('.index.json'):
            shutil.copy(path, folder)
    if not any((folder / name).is_file() for name in TOKENIZER):
        _placeholder().save_pretrained(folder)
    (folder / 'config.json').write_text(json.dumps(shrunk(read_config(source), layers)), encoding='utf-8')
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    dtype = config.dtype or config.get_text_config().dtype or 'float32'
    made = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    made.save_pretrained(folder)
    return folder


def _placeholder() -> Any:
    """A tokenizer of two tokens, for a model that is known by its config.json alone."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({'<unk>': 0, '</s>': 1}, unk_token='<unk>'))
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token='<unk>', eos_token='</s>', pad_token='</s>')
