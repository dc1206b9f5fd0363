"""``TransformersEngine``: a ``ChatEngine`` that loads a model of transformers and answers with it in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift.core.errors import ConfigError
from swift.core.types import Builder, ModelInfo, Template
from swift.engines import chat
from swift.engines.api import BATCH, ChatEngine
from swift.engines.native.engine import NativeEngine
from swift.engines.native.scheduler import Limits
from swift.models.args import ModelArgs

UNLIMITED = 1 << 20


class TransformersEngine(ChatEngine):
    """Answers conversations with a model of transformers, in this process.

    Args:
        model: A model id, a folder, a ``Builder`` of ``models.load``, or a model in memory.
        template: How conversations become prompts; None takes the model's own.
        response_prefix: What the template already puts before each answer: shown as its beginning.
        adapters: Folders of peft adapters. The first answers every request that names none.
        adapter_names: Names for them; by default those of their folders.
        max_batch_size: Answers that decode at once; -1 for no limit.
        max_kv_tokens: Tokens whose keys and values are kept in memory; None for a quarter of what is free.
        quantization_config, model_kwargs: More of transformers' ``from_pretrained``.

    The other arguments are the flags of the same names.

    Raises:
        ConfigError, ModelError: the model, the template or an adapter cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | Builder | nn.Module,
        *,
        template: Template | None = None,
        adapters: Sequence[str | Path] | None = None,
        adapter_names: Sequence[str] | None = None,
        response_prefix: str | None = None,
        max_batch_size: int = BATCH,
        max_kv_tokens: int | None = None,
        torch_dtype: Any = None,
        model_type: str | None = None,
        attn_impl: str | None = None,
        device_map: dict | str | None = None,
        task_type: Any = None,
        quantization_config: Any = None,
        model_kwargs: dict[str, Any] | None = None,
        template_type: str | None = None,
        use_hf: bool | None = None,
        revision: str | None = None,
        hub_token: str | None = None,
    ):
        args = ModelArgs(
            torch_dtype=None if torch_dtype is None else str(torch_dtype).removeprefix('torch.'),
            model_type=model_type,
            attn_impl=attn_impl,
            device_map=device_map,
            task_type=task_type,
            use_hf=bool(use_hf),
            model_revision=revision,
            hub_token=hub_token,
        )
        quantization = {} if quantization_config is None else {'quantization_config': quantization_config}
        builder = _builder(model, args, template, {**quantization, **(model_kwargs or {})})
        template = template or _template(builder, template_type)
        built = _place(builder.build())
        defaults = chat.Defaults.of(built.generation_config)
        limits = Limits(
            builder.info.max_model_len,
            UNLIMITED if max_batch_size < 1 else max_batch_size,
            max_kv_tokens=max_kv_tokens,
        )
        tokenizer = builder.tokenizer or getattr(template, 'tokenizer', None)
        engine = NativeEngine(built, decode=template.decode, limits=limits, tokenizer=tokenizer, eye=builder.eye)
        super().__init__(
            engine,
            template,
            model_name=Path(builder.info.id).name,
            max_model_len=limits.max_model_len,
            defaults=defaults,
            special=builder.tokenizer.get_added_vocab() if builder.tokenizer is not None else {},
            response_prefix=response_prefix,
            default_adapter=engine.adapters[0] if engine.adapters else None,
            max_batch_size=limits.max_batch_size,
        )
        for name, path in zip(_names(adapters or (), adapter_names), adapters or (), strict=True):
            engine.load_adapter(name, _fetch(path, args))
            self.default_adapter = self.default_adapter or name


# ------------------------------------------------------------------------------------------------------------- parts
def _builder(model: Any, args: ModelArgs, template: Template | None, changes: dict[str, Any]) -> Builder:
    """What ``model`` is, as a Builder. A model in memory brings its tokenizer's folder by its name."""
    from swift import models

    if isinstance(model, Builder):
        return model
    if not isinstance(model, nn.Module):
        return models.load(replace(args, model=str(model)), seeing=True, **changes)
    folder = model.config._name_or_path
    if template is None:
        if not folder:
            raise ConfigError('template: this model came from no folder with a tokenizer; pass a template')
        return replace(models.load(replace(args, model=folder), seeing=True), build=lambda: model)
    return Builder(_info(model, folder), None, lambda: model)


def _info(model: nn.Module, folder: str) -> ModelInfo:
    from swift.models.info import max_length

    config, name = model.config, type(model).__name__
    return ModelInfo(
        path=Path(folder),
        id=folder or name,
        model_type=config.model_type,
        architecture=name,
        dtype=str(model.dtype).removeprefix('torch.'),
        max_model_len=max_length(config.get_text_config().to_dict()),
        config=config,
    )


def _template(builder: Builder, name: str | None) -> Template:
    from swift import templates
    from swift.templates.args import TemplateArgs

    return templates.make(builder.tokenizer, builder.info, TemplateArgs(template=name), eye=builder.eye)


def _place(model: nn.Module) -> nn.Module:
    """Move a model that nobody placed to the accelerator, if there is one."""
    placed = hasattr(model, 'hf_device_map') or getattr(model, 'is_quantized', False)
    if not placed and torch.accelerator.is_available():
        return model.to(torch.accelerator.current_accelerator())
    return model


def _names(adapters: Sequence[str | Path], names: Sequence[str] | None) -> list[str]:
    """A name for each adapter: the given one, or its folder's with dots replaced, numbered where two are alike."""
    if names is not None:
        if len(names) != len(adapters):
            raise ConfigError(f'adapter_names: {len(names)} names for {len(adapters)} adapters')
        return list(names)
    plain = [Path(path).name.replace('.', '_') for path in adapters]
    return [name if plain.count(name) == 1 else f'{name}_{i}' for i, name in enumerate(plain)]


def _fetch(path: str | Path, args: ModelArgs) -> Path:
    from swift import hub

    return hub.fetch(str(path), use_hf=args.use_hf, token=args.hub_token)
