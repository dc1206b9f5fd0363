"""Adapters of peft on a model in memory: put on, chosen, taken off.

peft loads an adapter that fits nowhere with no more than a warning; here every tensor of it must find its place.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from swift.core import files
from swift.core.errors import ModelError
from swift.kernels.blueprint import Misfit

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
COPIES = ('.modules_to_save.', '.original_module.')


def attach(model: nn.Module, name: str, path: Path) -> nn.Module:
    """Load the peft adapter in ``path`` onto ``model``.

    Embeddings grow to the adapter's size where it brings tokens of its own. After a failure the model is as before.

    Args:
        name: peft looks for this text inside the names of tensors, so it must not occur in them by chance.

    Returns:
        The model wrapped by peft (the same object if it was wrapped before).

    Raises:
        ModelError: the folder is no adapter, or its tensors do not all fit this model.
        CorruptError: we wrote the folder, and its bytes have changed.
    """
    from swift.models.peft import PeftConfig, PeftModel, for_layers_of, get_peft_model

    _check_folder(path)
    files.verify_ours(path)
    _grow(model, path)
    wrapped = model if isinstance(model, PeftModel) else None
    try:
        with warnings.catch_warnings(), for_layers_of(model):
            warnings.simplefilter('ignore', FutureWarning)  # peft asks transformers for an attribute of an old name
            if wrapped is None:
                config = PeftConfig.from_pretrained(str(path))
                config.inference_mode = True
                wrapped = get_peft_model(model, config, adapter_name=name)
            loaded = wrapped.load_adapter(str(path), name)
        missing = [key for key in loaded.missing_keys if name in key]
        # peft itself stores saved modules of grown models several times over, and reads the plain names
        unexpected = [key for key in loaded.unexpected_keys if not any(part in key for part in COPIES)]
        if stray := [*missing, *unexpected]:
            raise ValueError(f'{len(stray)} tensors have no place or are missing, {stray[0]} among them')
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        if wrapped is not None and name in wrapped.peft_config:
            detach(wrapped, name)
        raise ModelError(
            f'{path}: this adapter does not fit the model; give the one it was trained on with --model. {error}'
        ) from error
    return wrapped.eval()


def detach(model: nn.Module, name: str) -> nn.Module:
    """Take an adapter off, and peft's wrapping with the last one. Returns the model."""
    if list(model.peft_config) == [name]:
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


class Term(NamedTuple):
    """What plain LoRA adds to a linear layer: ``y += scale B A x``."""

    a: Tensor  # [r, inputs]
    b: Tensor  # [outputs, r]
    scale: float


def low_rank_terms(model: Any, name: str) -> dict[nn.Module, Term]:
    """All that the adapter ``name`` changes, by the linear layer that it adds to.

    Raises:
        Misfit: it changes something in another way.
    """
    config = model.peft_config[name]
    if config.peft_type != 'LORA':
        raise Misfit(f'it is of the kind {config.peft_type}')
    for option in ('modules_to_save', 'trainable_token_indices', 'target_parameters', 'layer_replication'):
        if getattr(config, option, None):
            raise Misfit(f'it has {option}')
    found = {}
    for module in model.modules():
        if name in getattr(module, 'lora_embedding_A', ()):
            raise Misfit('it changes embeddings')
        if name not in getattr(module, 'lora_A', ()):
            continue
        if name in module.lora_variant or module.lora_bias.get(name) or type(module.base_layer) is not nn.Linear:
            raise Misfit('it is more than low-rank terms of linear layers')
        found[module.base_layer] = Term(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
    return found


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
