"""An adapter becomes part of its model's weights: a plain transformers folder, written whole and proven, or not at all.

    base + adapter --reference--> merge in fp32 --> save --> open again --> same answers? --> rename into place

Every kind of adapter that peft can merge is merged by peft, one layer at a time in fp32; what is stored is rounded
once. An adapter trained over a quantised base (QLoRA) is merged into the base in its own data type.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from swift import models
from swift.core import files
from swift.core.errors import ConfigError, ModelError
from swift.core.types import Builder
from swift.engines.native import adapters
from swift.export import parity
from swift.export.args import ExportArgs
from swift.models import heads, sentence
from swift.models.args import ModelArgs

logger = logging.getLogger(__name__)

# What of a head only flags know.
HEAD_ARGS = ('task_type', 'num_labels', 'problem_type', 'reranker_positive_word', 'reranker_negative_word')
# What args.json of the checkpoint still says about the merged model; how to load it, config.json says now.
KEPT_ARGS = (
    'verb', 'model_type', 'template', 'system', 'truncation_strategy', 'agent_template', 'use_chat_template',
    'response_prefix', 'norm_bbox', *HEAD_ARGS,
)  # fmt: skip
NAME = 'swift-merging'  # of the adapter while it is in memory
PRECISE = 2_000_000_000  # parameters; up to here the proof computes in fp32, beyond in the model's own data type


def merge(model: ModelArgs, adapter: Path, prompts: parity.Prompts, args: ExportArgs) -> Path:
    """Merge ``adapter`` into the model it was trained on.

    Args:
        model: how to load the base; its quantisation is left out.
        adapter: a peft folder.
        prompts: makes the token ids of the proof with the merged model's tokenizer.
        args: where to, how large the files, which limits.

    Returns:
        The folder that was written.

    Raises:
        ConfigError: the output folder exists and is not to be replaced.
        ModelError: base and adapter do not fit each other, or the base cannot be merged into.
        ParityError: merged and unmerged answers differ; nothing was written.
        DiskError: disk full.
    """
    assert args.output_dir is not None
    output = Path(args.output_dir)
    if output.exists() and not args.exist_ok:
        raise ConfigError(f'--output_dir {output}: exists; give --exist_ok true to replace it, or another folder')
    builder = models.load(replace(model, quant_method=None, quant_bits=None, adapters=[]))
    tuned = adapters.attach(_plain(builder), NAME, adapter)
    tokenizer = _tokenizer(adapter, builder, model)
    reference = None
    if args.parity != 'off':
        precise = sum(parameter.numel() for parameter in tuned.parameters()) <= PRECISE
        reference = parity.reference(tuned, prompts(tokenizer), precise=precise)
    merged = merge_(tuned)
    with files.commit(output, replace=args.exist_ok, need=merged.get_memory_footprint(), kind='merged') as folder:
        save(merged, tokenizer, folder, builder=builder, adapter=adapter, max_shard_size=args.max_shard_size)
        del tuned, merged
        gc.collect()
        if reference is not None:
            _prove(reference, folder, model, args)
    return output


def _plain(builder: Builder) -> nn.Module:
    """The base in memory, its weights in floating point."""
    model = builder.build()
    if not getattr(model, 'is_quantized', False):
        return model
    logger.info('%s is quantised: merging into its dequantised weights', builder.info.id)
    try:
        model = model.dequantize()
        _forget_conversions_(model)
        return model
    except (NotImplementedError, ValueError, AttributeError) as error:
        raise ModelError(
            f'{builder.info.id}: an adapter cannot be merged into these quantised weights ({error}); '
            'give the model they were made from with --model'
        ) from error


def _forget_conversions_(model: Any) -> None:
    """transformers (5.23) keeps what the quantiser did to names after dequantising, and cannot save because of it."""

    def reversible(conversion: Any) -> bool:
        try:
            conversion.reverse_transform()
        except NotImplementedError:
            return False
        return True

    model._weight_conversions = [each for each in model._weight_conversions or () if reversible(each)] or None


# ------------------------------------------------------------------------------------------------------------ merge
def merge_(tuned: Any) -> nn.Module:
    """Merge the active adapter into the base and return it, each weight in the data type it had.

    One layer at a time is in fp32: low-rank products of bf16 matrices lose more than the final rounding does.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    _untie_(tuned)
    wrapping = re.compile(r'\.(base_layer|original_module|token_adapter)')
    parameters = tuned.get_base_model().named_parameters(remove_duplicate=False)
    types = {wrapping.sub('', name): parameter.dtype for name, parameter in parameters}
    for layer in [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]:
        layer.float()
        layer.merge(safe_merge=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # peft: everything is merged already, embeddings are no longer tied
        merged = tuned.merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(types[name])
    return merged


def _untie_(tuned: Any) -> None:
    """Give the output head weights of its own where the adapter changes only one of two tied tables."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = tuned.get_base_model()
    tables = (base.get_input_embeddings(), base.get_output_embeddings())
    inner = [table.get_base_layer() if isinstance(table, BaseTunerLayer) else table for table in tables]
    if None in tables or inner[0].weight is not inner[1].weight or inner == list(tables):
        return
    inner[1].weight = nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False


# ------------------------------------------------------------------------------------------------------------- save
def save(model: Any, tokenizer: Any, folder: Path, *, builder: Builder, adapter: Path, max_shard_size: str) -> None:
    """Write everything that another program needs to use the model."""
    from transformers import GenerationConfig

    source = builder.info.path
    model.generation_config = GenerationConfig()  # the base's own file is copied: it may hold what transformers refuses
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    heads.write(folder, builder, length=sentence.max_length(adapter) or builder.info.max_model_len)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    code = source.glob('*.py') if getattr(model.config, 'auto_map', None) else ()
    for path in (source / 'generation_config.json', *code):
        if path.is_file():
            shutil.copy(path, folder / path.name)
    args = next((path for path in (adapter / 'args.json', adapter.parent / 'args.json') if path.is_file()), None)
    if args is not None:
        known = json.loads(args.read_text(encoding='utf-8'))
        kept = {name: known[name] for name in KEPT_ARGS if known.get(name) is not None}
        (folder / 'args.json').write_text(json.dumps(kept, indent=2, ensure_ascii=False), encoding='utf-8')


def _tokenizer(adapter: Path, builder: Builder, model: ModelArgs) -> Any:
    """The tokenizer that the adapter was trained with: its own, or that of the base."""
    if not (adapter / 'tokenizer_config.json').is_file():
        return builder.tokenizer
    from swift.models.tokenizer import load_tokenizer

    return load_tokenizer(replace(builder.info, path=adapter), trust_remote_code=model.trust_remote_code)


# ------------------------------------------------------------------------------------------------------------ proof
def _prove(reference: parity.Reference, folder: Path, model: ModelArgs, args: ExportArgs) -> None:
    """Open what was written, compare, report. Raises ParityError."""
    plain = ModelArgs(
        model=str(folder),
        attn_impl=model.attn_impl,
        device_map=model.device_map,
        max_memory=model.max_memory,
        trust_remote_code=model.trust_remote_code,
        **{name: getattr(model, name) for name in HEAD_ARGS},
    )
    report = parity.compare(reference, models.load(plain).build(), kl=args.parity_kl, top1=args.parity_top1)
    (folder / 'parity.json').write_text(report.to_json(), encoding='utf-8')
    parity.show(report)
    if not report.passed:
        if args.parity == 'refuse':
            raise parity.ParityError(report)
        logger.warning('%s', parity.ParityError(report))
