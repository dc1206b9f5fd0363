"""What is known of a model before its weights are read: from ``config.json``, the files beside it and the catalogue.

No torch, no transformers: a description takes milliseconds.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from swift import hub
from swift.core.errors import ConfigError, ModelError
from swift.core.types import ModelInfo
from swift.models import catalog, weights
from swift.models.args import ModelArgs

logger = logging.getLogger(__name__)

# Where configs of different families keep the longest sequence; the smallest that is there counts.
LENGTH_KEYS = (
    'max_position_embeddings', 'n_positions', 'seq_length', 'model_max_length', 'max_seq_len', 'max_sequence_length',
    'max_seq_length', 'seq_len', 'n_ctx',
)  # fmt: skip
NO_LIMIT = 1 << 20  # recurrent models have no longest sequence
TEXT_PARTS = ('text_config', 'llm_config', 'language_config', 'thinker_config')
PROCESSORS = ('preprocessor_config.json', 'processor_config.json')  # at least one says how pictures are prepared
DTYPES = ('bfloat16', 'float16', 'float32')


def describe(args: ModelArgs, *, weights_needed: bool = True) -> ModelInfo:
    """Everything about ``args.model`` that needs no weights; downloads or converts it when it must.

    Args:
        weights_needed: False lets a folder do that has a tokenizer only, which is enough to look at data.

    Raises:
        ConfigError: --model is missing, --model_type is unknown, or it is needed and missing.
        ModelError: there is no such model, or its folder is incomplete.
    """
    bare = not weights_needed and args.model and Path(args.model).is_dir()
    folder = Path(str(args.model)) if bare else folder_of(args)
    config = {} if bare and not (folder / 'config.json').is_file() else read_config(folder)
    text = text_part(config)
    own_template = chat_template(folder)
    architecture = (config.get('architectures') or [''])[0]
    family = _recognise(args, folder, architecture, config.get('model_type', ''), own_template is not None)
    return ModelInfo(
        path=folder,
        id=args.model or '',
        model_type=family.model_type if family else config.get('model_type', ''),
        architecture=architecture,
        dtype=_dtype(args, config, text),
        max_model_len=args.max_model_len or max_length(text),
        template=family.template if family else None,
        parameters=weights.check(folder) if weights_needed else None,
        thinking='enable_thinking' in own_template if own_template else bool(family and family.thinking),
        sees=isinstance(config.get('vision_config'), dict) and any((folder / name).is_file() for name in PROCESSORS),
    )


def folder_of(args: ModelArgs) -> Path:
    """The local folder with ``config.json``: of a path, of a hub's id, or made from a GGUF file."""
    if not args.model:
        raise ConfigError('--model is missing: give a model id, a local folder or a GGUF file')
    name = args.model if Path(args.model).exists() else catalog.id_on(args.model, use_hf=args.use_hf)
    path = hub.fetch(name, revision=args.model_revision, use_hf=args.use_hf, token=args.hub_token)
    if path.is_dir() and not (path / 'config.json').is_file():
        path = _only_gguf(path)
    if path.suffix == '.gguf':
        from swift.models import gguf

        return gguf.convert(path)
    if path.is_file():
        raise ModelError(f'{path}: a model is a folder with config.json, or a .gguf file')
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as plain data."""
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ModelError(f'{path}: cannot be read ({error})') from error
    if not isinstance(config, dict):
        raise ModelError(f'{path}: expected a JSON object')
    return config


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a multimodal config that describes the language model; a text config as it is."""
    return next((config[key] for key in TEXT_PARTS if isinstance(config.get(key), dict)), config)


def chat_template(folder: Path) -> str | None:
    """The text of the checkpoint's own chat template, or None."""
    if (path := folder / 'chat_template.jinja').is_file():
        return path.read_text(encoding='utf-8')
    for name in ('tokenizer_config.json', 'chat_template.json'):
        try:
            found = json.loads((folder / name).read_text(encoding='utf-8')).get('chat_template')
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, list):  # several by name
            found = {each['name']: each['template'] for each in found}.get('default')
        if found:
            return found
    return None


def max_length(text: dict[str, Any]) -> int:
    """The longest sequence the model was made for.

    A rope scaling that names the length before it (yarn, say) may reach further than ``max_position_embeddings``.
    """
    longest = min((text[key] for key in LENGTH_KEYS if isinstance(text.get(key), int)), default=NO_LIMIT)
    rope = text.get('rope_parameters') or text.get('rope_scaling') or {}
    rope = rope.get('full_attention') or rope
    original, factor = rope.get('original_max_position_embeddings'), rope.get('factor')
    return max(longest, int(original * factor)) if original and factor else longest


# ---------------------------------------------------------------------------------------------------------- parts
def _only_gguf(folder: Path) -> Path:
    """The one GGUF file of a folder without config.json."""
    files = sorted(folder.glob('*.gguf'))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelError(
            f'{folder}: {len(files)} GGUF files, {", ".join(file.name for file in files[:8])}: give --model one of them'
        )
    if (folder / 'adapter_config.json').is_file():
        raise ModelError(f'{folder}: an adapter, not a model: give --adapters {folder}, and --model its base model')
    names = ', '.join(sorted(path.name for path in folder.iterdir())[:12]) or 'nothing'
    raise ModelError(f'{folder}: no config.json, so no model; has {names}')


def _dtype(args: ModelArgs, config: dict[str, Any], text: dict[str, Any]) -> str:
    """--torch_dtype, else what the config says, else what the device computes well with."""
    stated = args.torch_dtype
    for part in (config, text):
        stated = stated or part.get('dtype') or part.get('torch_dtype')
    if stated is None:
        import torch

        if not torch.accelerator.is_available():
            return 'float32'
        return 'bfloat16' if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else 'float16'
    stated = str(stated).removeprefix('torch.')
    if stated not in DTYPES:
        logger.info('config.json: dtype %s is loaded as bfloat16', stated)
        return 'bfloat16'
    return stated


def _recognise(
    args: ModelArgs, folder: Path, architecture: str, config_type: str, has_template: bool
) -> catalog.Family | None:
    """The family of a model: as told, by its id, by the args.json beside its weights, by its architecture.

    Families that only share an architecture are told apart when it matters: when the checkpoint brings no template
    and theirs differ.
    """
    named = [each for each in catalog.of_id(args.model or '') if architecture in each.architectures]
    if args.model_type and args.model_type != config_type:
        told = catalog.of_type(args.model_type)
        fitting = [each for each in told if architecture in each.architectures] or told
        return next((each for each in fitting if each in named), fitting[0])
    if named:
        return named[0]
    told = [each for each in catalog.families() if each.model_type == _type_of_run(folder)]
    if told:
        return told[0]
    found = catalog.of_architecture(architecture)
    plain = [each for each in found if each.model_type == config_type]
    candidates = plain or found
    if len({each.template for each in candidates}) > 1 and not has_template:
        if plain:
            return None
        types = ', '.join(sorted({each.model_type for each in candidates}))
        raise ConfigError(
            f'{args.model}: its architecture {architecture} belongs to several families whose templates differ, and it '
            f'brings no chat template: give --model_type, one of {types}'
        )
    return candidates[0] if candidates else None


def _type_of_run(folder: Path) -> str | None:
    """The model type in the args.json that a training run has left beside the weights."""
    try:
        found = json.loads((folder / 'args.json').read_text(encoding='utf-8')).get('model_type')
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None
