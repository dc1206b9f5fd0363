"""Adapters of peft on a model in memory: put on, chosen, taken off.

peft loads an adapter that fits nowhere with no more than a warning; here every tensor of it must find its place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from swift.core.errors import ModelError, did_you_mean

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'


def attach(model: nn.Module, name: str, path: Path) -> nn.Module:
    """Load the peft adapter in ``path`` onto ``model`` under ``name``, not active yet unless it is the first.

    Embeddings grow to the adapter's size where it brings tokens of its own.

    Returns:
        The model wrapped by peft (the same object if it was wrapped before).

    Raises:
        ModelError: the folder is no adapter, or its tensors do not all fit this model.
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    _check_folder(path)
    if not name or '.' in name:
        raise ModelError(f'adapter name {name!r}: give it a name without dots, as in --adapters name={path}')
    if isinstance(model, PeftModel) and name in model.peft_config:
        raise ModelError(f'adapter {name!r} is loaded already; unload it first, or choose another name')
    _grow(model, path)
    try:
        if not isinstance(model, PeftModel):
            config = PeftConfig.from_pretrained(str(path))
            config.inference_mode = True
            model = get_peft_model(model, config, adapter_name=name)
        loaded = model.load_adapter(str(path), name)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f'{path}: this adapter does not fit the model: {error}') from error
    if stray := [*loaded.missing_keys, *loaded.unexpected_keys]:
        raise ModelError(
            f'{path}: this adapter was made for another model: {len(stray)} of its tensors have no place, or a place '
            f'has no tensor (first: {stray[0]}). Give the base model it was trained on with --model'
        )
    return model.eval()


def detach(model: nn.Module, name: str) -> nn.Module:
    """Take an adapter off, and peft's wrapping with the last one. Returns the model."""
    names = list(model.peft_config)
    if name not in names:
        raise ModelError(f'no adapter {name!r} is loaded{did_you_mean(name, names)}')
    if names == [name]:
        return model.unload()
    model.delete_adapter(name)
    return model


def activate(model: nn.Module, name: str | None) -> None:
    """Let the wrapped ``model`` answer with one adapter, or as its base (None)."""
    if name is None:
        model.base_model.disable_adapter_layers()
        return
    model.base_model.enable_adapter_layers()
    model.set_adapter(name, inference_mode=True)


def _check_folder(path: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise ModelError(f'{path} is no adapter folder: it has no {name}')
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except ValueError as error:
        raise ModelError(f'{path / CONFIG} is not JSON: {error}') from error
    if 'num_virtual_tokens' in config:
        raise ModelError(f'{path}: {config.get("peft_type")} adapters (virtual tokens) cannot answer here yet')


def _grow(model: Any, path: Path) -> None:
    """Resize the embeddings to the adapter's, if it has more rows than the model."""
    from safetensors import safe_open

    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    names = tuple(f'{name}.weight' for name, module in model.named_modules() if module in modules)
    with safe_open(path / WEIGHTS, 'pt') as file:
        rows = [file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith(names)]  # noqa: SIM118
    if rows and max(rows) > modules[0].weight.shape[0]:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
