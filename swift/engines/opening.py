"""The one place that opens an engine by flags: ``swift infer``, ``swift deploy`` and whoever else has their groups.

open_chat(flags)                  the engine with its chat layer
open_tokens(**as_json(flags))     the engine alone, for a process that was told what to open as JSON
chat_over(flags, engine)          the chat layer over an engine that is open, wherever it runs
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from swift.core.errors import ConfigError
from swift.core.log import get_logger
from swift.core.types import Builder, Engine, Template
from swift.engines import LIBRARIES
from swift.engines.api import BATCH, ChatEngine
from swift.engines.args import EngineArgs, LmdeployArgs, SglangArgs, VllmArgs, not_native
from swift.engines.backend import TIMEOUT, Backend, Job, ServerEngine
from swift.engines.chat import Defaults
from swift.engines.launch import Launched
from swift.models.args import ModelArgs, split_adapter
from swift.templates.args import TemplateArgs

AT_ONCE = 4 * BATCH  # answers at once of engines that choose for themselves


class Flags(Protocol):
    """The groups of flags that say which engine to open."""

    model: ModelArgs
    template: TemplateArgs
    engine: EngineArgs
    vllm: VllmArgs
    sglang: SglangArgs
    lmdeploy: LmdeployArgs


@dataclasses.dataclass
class Groups:
    """Flags by themselves."""

    model: ModelArgs = dataclasses.field(default_factory=ModelArgs)
    template: TemplateArgs = dataclasses.field(default_factory=TemplateArgs)
    engine: EngineArgs = dataclasses.field(default_factory=EngineArgs)
    vllm: VllmArgs = dataclasses.field(default_factory=VllmArgs)
    sglang: SglangArgs = dataclasses.field(default_factory=SglangArgs)
    lmdeploy: LmdeployArgs = dataclasses.field(default_factory=LmdeployArgs)


GROUPS = {spec.name: spec.default_factory for spec in dataclasses.fields(Groups)}


def open_chat(flags: Flags) -> ChatEngine:
    """The engine with the model, template and adapters of the flags.

    Raises:
        ConfigError, ModelError, TemplateError: they cannot be loaded; or the library is not installed.
        HangError, UnavailableError: the library's server did not start.
    """
    builder, template = _outline(flags)
    if flags.engine.infer_backend == 'native':
        return _native(flags, builder, template)
    return ChatEngine(_server(flags, builder, template), template, **_face(flags, builder))


def as_json(flags: Flags) -> dict[str, dict[str, Any]]:
    """The flags as JSON values."""
    return {name: dataclasses.asdict(getattr(flags, name)) for name in GROUPS}


def open_tokens(**groups: Mapping[str, Any]) -> Engine:
    """The engine without its chat layer; ``groups`` are those of ``as_json``. Raises as ``open_chat`` does.

    This process ends when the server of a library does, so that whoever watches it starts both again.
    """
    flags = Groups(**{name: GROUPS[name](**values) for name, values in groups.items()})
    engine = open_chat(flags).engine
    if isinstance(engine, ServerEngine):
        threading.Thread(target=_end_with, args=(engine.server,), name='swift-backend-watch', daemon=True).start()
    return engine


def _end_with(server: Launched) -> None:
    get_logger().error('%s', server.ended())
    os._exit(1)


def chat_over(flags: Flags, engine: Engine) -> ChatEngine:
    """The chat layer of these flags over an open engine. Reads no weights."""
    builder, template = _outline(flags)
    return ChatEngine(engine, template, **_face(flags, builder))


def _outline(flags: Flags) -> tuple[Builder, Template]:
    from swift import models, templates

    builder = models.load(flags.model, seeing=True)
    return builder, templates.make(builder.tokenizer, builder.info, flags.template, eye=builder.eye)


def _face(flags: Flags, builder: Builder) -> dict[str, Any]:
    """What the chat layer is told of the model."""
    adapters, native = list(_adapters(flags.model)), flags.engine.infer_backend == 'native'
    return {
        'model_name': Path(builder.info.id).name,
        'max_model_len': _longest(flags) or builder.info.max_model_len,
        'defaults': Defaults.read(builder.info.path),
        'special': builder.tokenizer.get_added_vocab(),
        'response_prefix': flags.template.response_prefix,
        'default_adapter': adapters[0] if adapters else None,
        'max_batch_size': flags.engine.max_batch_size if native and flags.engine.max_batch_size > 0 else AT_ONCE,
        'angled': not native,  # as llguidance does with tokenizers of transformers
    }


def _native(flags: Flags, builder: Builder, template: Template) -> ChatEngine:
    from swift.engines.native.api import TransformersEngine

    named = _adapters(flags.model)
    return TransformersEngine(
        builder,
        template=template,
        adapters=list(named.values()),
        adapter_names=list(named),
        response_prefix=flags.template.response_prefix,
        max_batch_size=flags.engine.max_batch_size,
        max_kv_tokens=flags.engine.max_kv_tokens,
        use_hf=flags.model.use_hf,
        hub_token=flags.model.hub_token,
    )


# -------------------------------------------------------------------------------------------------------- libraries
def _server(flags: Flags, builder: Builder, template: Template) -> ServerEngine:
    """The engine of another library."""
    backend, group = _library(flags)
    if problems := not_native(flags.model, flags.engine.infer_backend):
        raise ConfigError([text for _, text in problems])
    longest, settings = _longest(flags), settings_of(group, backend)
    settings.pop(backend.length, None)
    job = Job(
        model=builder.info.path,
        name=Path(builder.info.id).name,
        dtype=builder.info.dtype,
        max_model_len=longest,
        adapters={name: _fetch(path, flags.model) for name, path in _adapters(flags.model).items()},
        trust_remote_code=flags.model.trust_remote_code,
        settings=settings,
    )
    args = flags.engine
    return ServerEngine(backend, job, decode=template.decode, python=args.backend_python, timeout=args.backend_timeout)


def _library(flags: Flags) -> tuple[Backend, Any]:
    name = flags.engine.infer_backend
    return LIBRARIES[name], getattr(flags, name)


def settings_of(group: Any, backend: Backend) -> dict[str, Any]:
    """The library's arguments out of its flags; those of ``engine_kwargs`` win.

    What is None is the library's to choose, and so is a switch that is off as it is by itself.

    Raises:
        ConfigError: ``engine_kwargs`` is no JSON object.
    """
    prefix = f'{backend.package.module}_'
    settings = {}
    for spec in dataclasses.fields(group):
        value, name = getattr(group, spec.name), spec.name.removeprefix(prefix)
        if name != 'engine_kwargs' and value is not None and not (value is False and spec.default is False):
            settings[backend.renamed.get(name, name)] = value
    more = getattr(group, f'{prefix}engine_kwargs') or {}
    if not isinstance(more, dict):
        raise ConfigError(f'--{prefix}engine_kwargs {more!r}: expected a JSON object, such as \'{{"name": 1}}\'')
    return {**settings, **more}


def _longest(flags: Flags) -> int | None:
    """The longest prompt with its answer, where the flags say it."""
    if flags.engine.infer_backend == 'native':
        return None
    backend, group = _library(flags)
    return settings_of(group, backend).get(backend.length) or flags.model.max_model_len


def _adapters(model: ModelArgs) -> dict[str, str]:
    """Name -> path of the adapters; one without a name is called as its folder."""
    named = [split_adapter(text) for text in model.adapters]
    return {name or Path(path).name: path for name, path in named}


def _fetch(path: str, model: ModelArgs) -> Path:
    from swift import hub

    return hub.fetch(path, use_hf=model.use_hf, token=model.hub_token).absolute()


class LibraryEngine(ChatEngine):
    """A library's engine as scripts make it: ``VllmEngine('org/model', tensor_parallel_size=2)``.

    Args:
        template: How conversations become prompts; None takes the model's own.
        adapters: Folders of peft adapters. The first answers every request that names none.
        python, timeout: As ``--backend_python`` and ``--backend_timeout``.
        engine_kwargs, settings: The library's own arguments.

    The other arguments are the flags of the same names.

    Raises:
        ConfigError, ModelError: the model, the template or an adapter cannot be loaded; the library is not installed,
            or has no such argument.
        HangError, UnavailableError: its server did not start.
    """

    library: ClassVar[str]

    def __init__(
        self,
        model_id_or_path: str | Path,
        *,
        template: Template | None = None,
        adapters: Sequence[str | Path] = (),
        torch_dtype: Any = None,
        model_type: str | None = None,
        task_type: Any = None,
        template_type: str | None = None,
        use_hf: bool | None = None,
        hub_token: str | None = None,
        revision: str | None = None,
        python: str | None = None,
        timeout: float = TIMEOUT,
        engine_kwargs: dict[str, Any] | None = None,
        use_async_engine: bool | None = None,  # its server is always asynchronous
        **settings: Any,
    ):
        model = ModelArgs(
            model=str(model_id_or_path),
            adapters=[str(path) for path in adapters or ()],
            torch_dtype=None if torch_dtype is None else str(torch_dtype).removeprefix('torch.'),
            model_type=model_type,
            task_type=task_type,
            use_hf=bool(use_hf),
            hub_token=hub_token,
            model_revision=revision,
        )
        engine = EngineArgs(infer_backend=self.library, backend_python=python, backend_timeout=timeout)  # type: ignore[arg-type]
        group = group_of(self.library, {**settings, **(engine_kwargs or {})})
        flags = Groups(model, TemplateArgs(template=template_type), engine, **{self.library: group})
        builder, own = _outline(flags)
        template = template or own
        super().__init__(_server(flags, builder, template), template, **_face(flags, builder))


def group_of(library: str, settings: Mapping[str, Any]) -> Any:
    """A library's group of flags out of its own arguments; those that have no flag are its ``engine_kwargs``."""
    kind = GROUPS[library]
    names = {f'{library}_{name}': name for name in settings}
    known = {spec.name for spec in dataclasses.fields(kind)} & names.keys()
    more = {name: settings[name] for flag, name in names.items() if flag not in known}
    return kind(**{flag: settings[names[flag]] for flag in known}, **{f'{library}_engine_kwargs': more})


class VllmEngine(LibraryEngine):
    """Answers with vLLM."""

    library = 'vllm'


class SglangEngine(LibraryEngine):
    """Answers with SGLang."""

    library = 'sglang'


class LmdeployEngine(LibraryEngine):
    """Answers with LMDeploy."""

    library = 'lmdeploy'
