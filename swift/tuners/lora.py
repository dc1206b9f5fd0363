"""LoRA and its kin through peft: LoRA, rsLoRA, DoRA, PiSSA, OLoRA; on plain and on quantised weights.

The saved adapter is a plain peft folder that fits the model as its author published it: starts that change the base
weights (PiSSA, OLoRA) are written as an ordinary LoRA of twice the rank.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from swift.core.errors import ConfigError
from swift.core.types import Builder
from swift.models.peft import LoraConfig, PeftModel, for_layers_of, get_peft_model, get_peft_model_state_dict
from swift.tuners.args import TunerArgs

ADAPTER = 'default'

# Words that stand for all modules of a kind: word -> (module, name) -> bool
KINDS = {
    'all-linear': lambda module, name: isinstance(module, nn.Linear) or _is_conv1d(module),
    'all-embedding': lambda module, name: isinstance(module, nn.Embedding),
    'all-norm': lambda module, name: 'norm' in type(module).__name__.lower(),
    'all-router': lambda module, name: type(module).__name__.lower().endswith(('router', 'gate')),
}


def lora(builder: Builder, args: TunerArgs) -> Builder:
    """Freeze the model and put low-rank adapters beside its linear layers."""
    return builder.then(lambda model: attach(model, args))


def continued(builder: Builder, folders: list[str]) -> Builder:
    """Go on training a saved adapter; its own settings hold.

    Raises:
        ConfigError: there are several.
    """
    if len(folders) > 1:
        raise ConfigError(f'--adapters {" ".join(folders)}: training goes on with one adapter; give one')

    def load(model: nn.Module) -> PeftModel:
        return PeftModel.from_pretrained(model, folders[0], is_trainable=True, autocast_adapter_dtype=False)  # type: ignore[arg-type]

    return builder.then(load)


def add_frozen(model: PeftModel, folder: str, name: str) -> None:
    """Put a saved adapter beside the one that is trained; it is at work only when it is chosen, and never learns.

    One that is there already is left as it is.
    """
    if name in model.peft_config:
        return
    model.load_adapter(folder, name, is_trainable=False, autocast_adapter_dtype=False)


def attach(model: nn.Module, args: TunerArgs) -> PeftModel:
    """Put a fresh adapter on ``model``.

    Raises:
        ConfigError: when the targets match nothing or peft refuses the combination.
    """
    start = _start(args.init_weights)
    changes_base = isinstance(start, str) and start.partition('_')[0] in ('pissa', 'olora')
    if changes_base and getattr(model, 'is_quantized', False):
        raise ConfigError(
            f'--init_weights {args.init_weights} changes the base weights and cannot start from quantised ones'
        )
    config = LoraConfig(
        task_type=_task_type(model),
        r=args.lora_rank,
        lora_alpha=_integral(args.lora_alpha),
        lora_dropout=args.lora_dropout,
        bias=args.lora_bias,
        target_modules=targets(model, args),
        modules_to_save=_to_save(model, args.modules_to_save),
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
        init_lora_weights=start,
    )
    try:
        with for_layers_of(model):
            tuned = get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ConfigError(f'--target_modules {" ".join(args.target_modules)}: {error}') from error
    if args.lora_dtype is not None:
        _cast_adapters_(tuned, getattr(torch, args.lora_dtype))
    if changes_base:
        tuned.swift_start = {name: value.clone() for name, value in get_peft_model_state_dict(tuned).items()}
    return tuned


def targets(model: nn.Module, args: TunerArgs) -> list[str] | str:
    """What peft should adapt: a regular expression, its own 'all-linear', or a list of module names."""
    if args.target_regex:
        return args.target_regex
    if args.target_modules == ['all-linear']:
        return 'all-linear'
    return _expand(model, args.target_modules)


def _expand(model: nn.Module, words: list[str]) -> list[str]:
    """Replace words like all-norm by the full names of the modules they stand for; the output head is left out."""
    head = model.get_output_embeddings()
    names: list[str] = []
    for word in words:
        if word not in KINDS:
            names.append(word)
            continue
        found = [name for name, module in model.named_modules() if module is not head and KINDS[word](module, name)]
        if not found:
            raise ConfigError(f'{word}: this model has no such module')
        names += found
    return names


def _to_save(model: nn.Module, words: list[str]) -> list[str] | None:
    return _expand(model, words) if words else None


def _start(word: str) -> bool | str:
    """peft's ``init_lora_weights`` from the flag's text."""
    if not re.fullmatch(r'true|false|gaussian|pissa(_niter_\d+)?|olora', word.lower()):
        known = 'true, false, gaussian, pissa, pissa_niter_N, olora'
        raise ConfigError(f'--init_weights {word}: unknown, or not built yet. Known: {known}')
    return {'true': True, 'false': False}.get(word.lower(), word.lower())


def _task_type(model: nn.Module) -> str:
    """What peft calls a model's task: it keeps classification heads whole and saves them with the adapter."""
    if type(model).__name__.endswith('ForSequenceClassification'):
        return 'SEQ_CLS'
    return 'CAUSAL_LM' if model.get_output_embeddings() is not None else 'FEATURE_EXTRACTION'  # type: ignore[operator]


def _integral(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == 'Conv1D'  # GPT-2's linear layer, from transformers.pytorch_utils


def _cast_adapters_(model: nn.Module, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def export(model: PeftModel, folder: Path, *, with_embeddings: bool) -> None:
    """Write the adapter as a plain peft folder (adapter_config.json, adapter_model.safetensors).

    Args:
        with_embeddings: also write the embedding layers, because tokens were added.
    """
    start: dict[str, torch.Tensor] | None = getattr(model, 'swift_start', None)
    if start is None:
        model.save_pretrained(
            folder, safe_serialization=True, save_embedding_layers=with_embeddings, selected_adapters=[ADAPTER]
        )
        return
    state = get_peft_model_state_dict(model, save_embedding_layers=with_embeddings)
    save_file(_difference(state, start), folder / 'adapter_model.safetensors', metadata={'format': 'pt'})
    config = _doubled(model.peft_config[ADAPTER].to_dict())
    (folder / 'adapter_config.json').write_text(json.dumps(config, indent=2, sort_keys=True), encoding='utf-8')


def named_as_trained(model: PeftModel, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter under the names that the parameters of ``model`` have."""
    ours = get_peft_model_state_dict(model)
    names = {value.data_ptr(): name for name, value in model.named_parameters() if value.requires_grad}
    return {names[value.data_ptr()]: saved[name] for name, value in ours.items() if name in saved}


def _difference(state: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An ordinary LoRA with the same effect: ``B A - B0 A0 = [B, -B0] [A; A0]``."""
    out = {}
    for name, value in state.items():
        if 'lora_A' in name:
            value = torch.cat([value, start[name]], 0)  # [2r, in]
        elif 'lora_B' in name:
            value = torch.cat([value, -start[name]], 1)  # [out, 2r]
        out[name] = value.contiguous()
    return out


def _doubled(config: dict[str, Any]) -> dict[str, Any]:
    """The adapter's configuration at twice the rank and the same scale alpha / r (alpha / sqrt(r) for rsLoRA)."""
    factor = 2**0.5 if config.get('use_rslora') else 2
    alpha = _integral(config['lora_alpha'] * factor)
    config = {**config, 'r': config['r'] * 2, 'lora_alpha': alpha, 'init_lora_weights': True, 'inference_mode': True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
