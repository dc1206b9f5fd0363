"""From flags to a ``Builder``: everything that can be wrong with a model is found here, before its weights are read.

``load`` reads headers, config and tokenizer; ``Builder.build`` brings the weights into memory, as often as it is
called, each time the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.core import files, startup
from swift.core.errors import ConfigError, ModelError, did_you_mean
from swift.core.types import Builder, ModelInfo
from swift.models import eye, heads, sentence
from swift.models.args import ModelArgs
from swift.models.info import PROCESSORS, describe, max_length

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

# Value of --attn_impl -> (name in transformers, function of transformers.utils that says whether it is installed)
ATTENTION = {
    'eager': ('eager', None),
    'sdpa': ('sdpa', None),
    'flash_attn': ('flash_attention_2', 'is_flash_attn_2_available'),
    'flash_attention_2': ('flash_attention_2', 'is_flash_attn_2_available'),
    'flash_attention_3': ('flash_attention_3', 'is_flash_attn_3_available'),
    'flash_attention_4': ('flash_attention_4', 'is_flash_attn_4_available'),
    'flex_attention': ('flex_attention', 'is_torch_flex_attn_available'),
}
# Established arguments of get_model_processor that are refused by name -> what to do instead.
LATER = {
    'auto_model_cls': 'the class follows from config.json; leave it out',
    'experts_impl': 'leave it out',
    'return_dummy_model': 'load_model=False gives the tokenizer alone',
}
NOTICEABLE = 1_000_000_000  # parameters from which loading takes seconds
GENERATING = ('ForCausalLM', 'LMHeadModel', 'ForConditionalGeneration')


def load(args: ModelArgs, *, seeing: bool = False, **changes: Any) -> Builder:
    """A model that is described, checked and ready to be built.

    Args:
        seeing: take models that see pictures with their eyes, too; else those that have no form without are refused.
        changes: passed on to transformers' ``from_pretrained``, over what the flags say.

    Raises:
        ConfigError: flags that are wrong by themselves or do not fit this model.
        ModelError: the folder is incomplete, damaged, or needs code that is not trusted.
    """
    startup.scan_once()
    info = describe(args)
    files.verify_ours(info.path)
    config = _transformers_config(info, args.trust_remote_code)
    auto_class = _auto_class(info, config, args, seeing=seeing)
    length = _scale(config, args)
    longest = length or max_length(config.get_text_config().to_dict())
    if args.task_type == 'embedding' and not args.max_model_len:
        longest = min(longest, sentence.max_length(info.path) or longest)
    info = replace(info, config=config, max_model_len=longest)
    tokenizer, new_ids = _tokenizer(info, args)
    heads.prepare_(config, args, info, tokenizer)
    options = {**_options(info, args), **changes}
    of_adapter = bool(args.adapters)  # which brings the head
    build = partial(_build, info, options, new_ids, auto_class, of_adapter)
    sight = eye.open_eye(info) if auto_class == heads.SEEING else None
    return Builder(info, tokenizer, build, heads.readout(args, info, tokenizer), sight)


def outline(args: ModelArgs) -> Builder:
    """A model's description and tokenizer, for looking at data: a folder with a tokenizer is enough.

    Raises:
        ModelError: there is no such folder, or no tokenizer in it.
    """
    from swift.models import tokenizer as room

    info = describe(args, weights_needed=False)
    tokenizer = room.load_tokenizer(info, trust_remote_code=args.trust_remote_code)
    if args.new_special_tokens:
        room.add_tokens_(tokenizer, args.new_special_tokens)
    return Builder(info, tokenizer, partial(_no_weights, info))


def _no_weights(info: ModelInfo) -> nn.Module:
    raise ModelError(f'{info.path}: only its tokenizer was looked at')


def get_model_processor(
    model_id_or_path: str,
    *,
    torch_dtype: Any = None,
    device_map: dict | str | None = None,
    load_model: bool = True,
    use_hf: bool | None = None,
    hub_token: str | None = None,
    revision: str | None = None,
    download_model: bool | None = None,
    model_type: str | None = None,
    quantization_config: Any = None,
    max_memory: dict | str | None = None,
    attn_impl: str | None = None,
    rope_scaling: dict | str | None = None,
    max_model_len: int | None = None,
    new_special_tokens: Sequence[str] | None = None,
    task_type: Any = None,
    num_labels: int | None = None,
    problem_type: Any = None,
    trust_remote_code: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    **later: Any,
) -> tuple[nn.Module | None, Any]:
    """A model in memory and its tokenizer; with ``load_model=False`` (None, tokenizer).

    The established function of notebooks; arguments are those of the flags of the same names. ``torch_dtype`` may be
    torch's own, ``quantization_config`` one of transformers, ``model_kwargs`` more of ``from_pretrained``.
    ``download_model`` has no effect: what is not on this machine is downloaded.

    Raises:
        ConfigError, ModelError: as ``load``; an argument that is unknown, or not built yet (see ``LATER``).
    """
    for name, value in later.items():
        if name not in LATER:
            raise ConfigError(f'get_model_processor: unknown argument {name}{did_you_mean(name, LATER)}')
        if value:
            raise ConfigError(f'get_model_processor: {name} is not built yet; {LATER[name]}')
    dtype: Any = None if torch_dtype in (None, 'auto') else str(torch_dtype).removeprefix('torch.')
    args = ModelArgs(
        model=model_id_or_path,
        torch_dtype=dtype,
        device_map=device_map,
        use_hf=bool(use_hf),
        hub_token=hub_token,
        model_revision=revision,
        model_type=model_type,
        max_memory=max_memory,
        attn_impl=attn_impl,
        rope_scaling=json.dumps(rope_scaling) if isinstance(rope_scaling, dict) else rope_scaling,
        max_model_len=max_model_len,
        new_special_tokens=list(new_special_tokens or ()),
        task_type=task_type,
        num_labels=num_labels,
        problem_type=problem_type,
        trust_remote_code=trust_remote_code,
    )
    quantization = {} if quantization_config is None else {'quantization_config': quantization_config}
    builder = load(args, **quantization, **(model_kwargs or {}))
    return builder.build() if load_model else None, builder.tokenizer


def get_processor(model_id_or_path: str, **kwargs: Any) -> Any:
    """The tokenizer of a model, by the arguments of ``get_model_processor``."""
    return get_model_processor(model_id_or_path, load_model=False, **kwargs)[1]


# ---------------------------------------------------------------------------------------------------- what to load
def _transformers_config(info: ModelInfo, trust_remote_code: bool) -> Any:
    """The transformers config; remote code is read only when it is trusted."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(info.path, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # pydantic-like checks, unknown types, broken JSON: all mean the same here
        if 'trust_remote_code' in str(error):
            raise _untrusted(info) from error
        raise ModelError(f'{info.path / "config.json"}: not a config that transformers knows ({error})') from error


def _auto_class(info: ModelInfo, config: Any, args: ModelArgs, *, seeing: bool) -> str:
    """The class of transformers that loads the model. Raises ModelError where none does."""
    from transformers.models.auto import modeling_auto as auto

    wanted = heads.CLASSES[args.task_type]
    if wanted != heads.CLASSES[None]:
        heads.check_architecture(info, config, str(args.task_type))
        return wanted
    if seeing and info.sees and config.model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return heads.SEEING
    _check_class(info, config, args.trust_remote_code)
    return wanted


def _check_class(info: ModelInfo, config: Any, trust_remote_code: bool) -> None:
    """Refuse what AutoModelForCausalLM cannot load, or would load as something else than was saved."""
    from transformers.models.auto import modeling_auto as auto

    if trust_remote_code and 'AutoModelForCausalLM' in (getattr(config, 'auto_map', None) or {}):
        return
    if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if info.architecture and not info.architecture.endswith(GENERATING):
            hint = '; --task_type seq_cls loads its head' if info.architecture.endswith(heads.CLASSIFIER) else ''
            raise ModelError(f'{info.id}: {info.architecture} is not a causal language model{hint}')
        return
    if getattr(config, 'auto_map', None):
        raise _untrusted(info)
    if config.model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f'{info.id}: {info.architecture or config.model_type} is multimodal: '
            + (
                'it answers (swift infer, swift deploy), but training, merging and measuring it are not built yet'
                if info.sees
                else f'its folder has no {" or ".join(PROCESSORS)}, which says how pictures are prepared; copy it there'
            )
        )
    raise ModelError(f'{info.id}: {info.architecture or config.model_type} is not a causal language model')


def _untrusted(info: ModelInfo) -> ModelError:
    return ModelError(
        f'{info.id}: transformers has no class for {info.architecture or info.model_type}; the model brings Python '
        f'code of its own, in {info.path}. Read it, and if you trust it, give --trust_remote_code true'
    )


def _scale(config: Any, args: ModelArgs) -> int | None:
    from swift.models import rope

    return rope.scale_(config, args.rope_scaling, args.max_model_len)


def _tokenizer(info: ModelInfo, args: ModelArgs) -> tuple[Any, list[int]]:
    """The tokenizer, and the ids of its tokens that need a fresh embedding."""
    from swift.models import tokenizer as room

    tokenizer = room.load_tokenizer(info, trust_remote_code=args.trust_remote_code)
    rows = info.config.get_text_config().vocab_size
    known = set(tokenizer.get_vocab().values())
    added = room.add_tokens_(tokenizer, args.new_special_tokens) if args.new_special_tokens else []
    new_ids = [id for id in added if id not in known or id >= rows]
    room.check_vocabulary(info, tokenizer, max([rows, *(id + 1 for id in new_ids)]))
    return tokenizer, new_ids


# ------------------------------------------------------------------------------------------------------ how to load
def _options(info: ModelInfo, args: ModelArgs) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained``."""
    from swift.models.quant import quantization_config

    options: dict[str, Any] = {'dtype': info.dtype, 'trust_remote_code': args.trust_remote_code}
    device_map = _json_flag('device_map', args.device_map)
    if (config := quantization_config(args, info.dtype)) is not None:
        if getattr(info.config, 'quantization_config', None):
            raise ConfigError(f'--quant_bits {args.quant_bits}: {info.id} is quantised already')
        options['quantization_config'] = config
        device_map = device_map or _cpu_alone()
    if device_map is not None:
        options['device_map'] = device_map
    if (max_memory := _json_flag('max_memory', args.max_memory)) is not None:
        if not isinstance(max_memory, dict):
            raise ConfigError(f'--max_memory {args.max_memory}: expected JSON like {{"0": "20GB", "cpu": "60GB"}}')
        options['max_memory'] = {int(k) if str(k).isdigit() else k: value for k, value in max_memory.items()}
    if args.attn_impl is not None:
        options['attn_implementation'] = _attention(args.attn_impl)
    return options


def _cpu_alone() -> str | None:
    """bitsandbytes wants to be told when there is nothing but a CPU."""
    import torch

    return None if torch.accelerator.is_available() else 'cpu'


def _json_flag(name: str, value: dict | str | None) -> dict | str | None:
    """A value that may be JSON, or the path of a JSON file, or a plain word."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        if text.endswith('.json'):
            text = Path(text).expanduser().read_text(encoding='utf-8')
        return json.loads(text) if text.lstrip().startswith('{') else text
    except (OSError, ValueError) as error:
        raise ConfigError(f'--{name} {value}: cannot be read as JSON ({error})') from error


def _attention(name: str) -> str:
    """The implementation's name in transformers; sdpa, said once, for one that is not installed."""
    import transformers.utils

    if name not in ATTENTION:
        raise ConfigError(f'--attn_impl {name}: unknown{did_you_mean(name, ATTENTION)} Known: {", ".join(ATTENTION)}')
    chosen, available = ATTENTION[name]
    if available and not getattr(transformers.utils, available, lambda: False)():
        logger.warning('--attn_impl %s: not installed here, taking sdpa', name)
        return 'sdpa'
    return chosen


# ------------------------------------------------------------------------------------------------------- the weights
def _build(
    info: ModelInfo, options: dict[str, Any], new_ids: list[int], auto_class: str, of_adapter: bool
) -> nn.Module:
    """Bring the weights into memory, complete, in evaluation mode; a head that is in no file starts at random."""
    import transformers

    try:
        with _progress(shown=info.parameters is None or info.parameters > NOTICEABLE), _without_report():
            model, report = getattr(transformers, auto_class).from_pretrained(
                info.path, config=info.config, local_files_only=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise ModelError(f'{info.path}: the weights cannot be loaded ({type(error).__name__}: {error})') from error
    other_head = auto_class not in (heads.CLASSES[None], heads.SEEING)
    missing, unused = sorted(report['missing_keys']), sorted(report['unexpected_keys'])
    if other_head:
        if fresh := [name for name in missing if heads.is_fresh(name, model)]:
            level = logging.DEBUG if of_adapter else logging.INFO
            logger.log(level, '%s: %s in none of its files: starts at random', info.id, ', '.join(fresh))
        missing = [name for name in missing if name not in fresh]
        unused = [name for name in unused if not heads.is_left_over(name)]
    if missing:
        raise ModelError(
            f'{info.path}: {len(missing)} weights are not in the files and would be random: {", ".join(missing[:5])}. '
            f'The files belong to another architecture than {type(model).__name__}, or are incomplete'
        )
    if unused:
        logger.warning('%s: %d weights are not used: %s ...', info.id, len(unused), ', '.join(unused[:3]))
    if new_ids:
        from swift.models.embeddings import grow_

        grow_(model, new_ids)
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Leave out transformers' table of missing and unused weights: what matters of it is said here."""
    other = lambda record: 'LOAD REPORT' not in str(record.msg)
    room = logging.getLogger('transformers.modeling_utils')
    room.addFilter(other)
    try:
        yield
    finally:
        room.removeFilter(other)


@contextmanager
def _progress(*, shown: bool) -> Iterator[None]:
    """Leave out the progress bar of transformers while something short is loaded."""
    from transformers.utils import logging as bars

    if shown or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()
