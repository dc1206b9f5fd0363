"""``TransformersEngine``: messages in, chat completions out. The class that scripts and commands hold.

InferRequest --template.prompt--> Request --NativeEngine--> pieces --chat.collect--> ChatCompletionResponse
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from swift.core.errors import ConfigError
from swift.core.types import Builder, ModelInfo, Piece, Request, Template
from swift.data.progress import track
from swift.engines.native import chat
from swift.engines.native.engine import NativeEngine
from swift.engines.native.scheduler import Limits
from swift.engines.protocol import (
    AdapterRequest,
    ChatCompletionResponse,
    ChatCompletionStreamResponse,
    InferRequest,
    RequestConfig,
)
from swift.models.args import ModelArgs

BATCH = 16  # answers at once where nothing is said
UNLIMITED = 1 << 20
AHEAD = 4  # batches of requests that ``answers`` keeps queued, so that no row of a batch stays empty


class _Begun(NamedTuple):
    """A request that is queued, and where its pieces come."""

    request: Request
    config: RequestConfig
    pieces: Iterator[Piece]


class TransformersEngine:
    """Answers conversations with a model of transformers.

    Args:
        model: A model id, a folder, a ``Builder`` of ``models.load``, or a model in memory.
        template: How conversations become prompts; None takes the model's own.
        response_prefix: What the template already puts before each answer: shown as its beginning.
        adapters: Folders of peft adapters. The first answers every request that names none.
        adapter_names: Names for them; by default those of their folders.
        max_batch_size: Answers that decode at once; -1 for no limit.
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
        self.template = template or _template(builder, template_type)
        self._stop_text = getattr(self.template, 'stop_text', '')  # of templates whose answers end with no token
        self.model_name = Path(builder.info.id).name
        self._style = chat.Style(self.model_name, self.template.decode, response_prefix or '')
        self.max_model_len = builder.info.max_model_len
        built = _place(builder.build())
        self._defaults = built.generation_config
        self._special = builder.tokenizer.get_added_vocab() if builder.tokenizer is not None else {}
        self._limits = Limits(self.max_model_len, UNLIMITED if max_batch_size < 1 else max_batch_size)
        self.engine = NativeEngine(
            built,
            decode=self.template.decode,
            stop_ids=(*self.template.stop_ids, *chat.end_ids(self._defaults)),
            limits=self._limits,
        )
        self._ids = itertools.count()
        self.default_adapter: str | None = self.engine.adapters[0] if self.engine.adapters else None
        for name, path in zip(_names(adapters or (), adapter_names), adapters or (), strict=True):
            self.engine.load_adapter(name, _fetch(path, args))
            self.default_adapter = self.default_adapter or name

    # ------------------------------------------------------------------------------------------------- established
    def infer(
        self,
        infer_requests: Sequence[InferRequest],
        request_config: RequestConfig | None = None,
        metrics: Sequence[Any] | None = None,
        *,
        use_tqdm: bool | None = None,
        adapter_request: AdapterRequest | None = None,
    ) -> list[ChatCompletionResponse] | list[Iterator[ChatCompletionStreamResponse]]:
        """Answer all requests together.

        Args:
            metrics: Objects whose ``update`` is called with each response.
            use_tqdm: False hides the progress bar.

        Returns:
            One response per request, in their order; with ``request_config.stream`` one iterator per request.

        Raises:
            SwiftError: the first request that cannot be answered; the others are aborted.
        """
        config = request_config or RequestConfig()
        if config.stream:
            return [self.stream(request, config, adapter=self._adapter(adapter_request)) for request in infer_requests]
        asked = ((request, config) for request in infer_requests)
        found = self.answers(asked, adapter=self._adapter(adapter_request))
        if use_tqdm is not False and len(infer_requests) > 1:
            found = track(found, 'answers', total=len(infer_requests))
        responses = []
        for response in found:
            if isinstance(response, Exception):
                raise response
            responses.append(response)
            for metric in metrics or ():
                metric.update(response)
        return responses

    async def infer_async(
        self,
        infer_request: InferRequest,
        request_config: RequestConfig | None = None,
        *,
        adapter_request: AdapterRequest | None = None,
        pre_infer_hook: Any = None,
    ) -> ChatCompletionResponse | AsyncIterator[ChatCompletionStreamResponse]:
        """Answer one request; calls that overlap share batches. With ``stream`` the pieces as they come."""
        config = request_config or RequestConfig()
        if pre_infer_hook is not None:
            raise ConfigError('pre_infer_hook: not built; change the InferRequest before you pass it')
        request = self.request(infer_request, config, adapter=self._adapter(adapter_request))
        pieces = self.engine.submit(request)
        if config.stream:
            chunks = self._chunks(request)
            return (chunks.make(piece) async for piece in pieces)
        return self._collect([piece async for piece in pieces], request, config)

    # -------------------------------------------------------------------------------------------------------- ours
    def answers(
        self, asked: Iterable[tuple[InferRequest, RequestConfig]], *, adapter: str | None = None
    ) -> Iterator[ChatCompletionResponse | Exception]:
        """Responses in the order of ``asked``, which is read as answers come: it may be any length.

        A request that cannot be answered gives its exception in its place. Closing the iterator aborts what is open.
        """
        window = AHEAD * min(self._limits.max_batch_size, BATCH * AHEAD)
        pending: deque[_Begun | Exception] = deque()
        try:
            for request, config in asked:
                pending.append(self._begin(request, config, adapter))
                if len(pending) >= window:
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:
            for begun in pending:
                if isinstance(begun, _Begun):
                    self.engine.abort(begun.request.id)

    def _begin(self, infer_request: InferRequest, config: RequestConfig, adapter: str | None) -> _Begun | Exception:
        """Queue a request."""
        try:
            request = self.request(infer_request, config, adapter=adapter)
            return _Begun(request, config, self.engine.stream(request))
        except Exception as error:
            return error

    def _finish(self, begun: _Begun | Exception) -> ChatCompletionResponse | Exception:
        """Wait for a request that was queued."""
        if isinstance(begun, Exception):
            return begun
        try:
            return self._collect(begun.pieces, begun.request, begun.config)
        except Exception as error:
            return error

    def stream(
        self, infer_request: InferRequest, config: RequestConfig, *, adapter: str | None = None
    ) -> Iterator[ChatCompletionStreamResponse]:
        """The pieces of one response. Closing the iterator aborts the request."""
        request = self.request(infer_request, config, adapter=adapter)
        pieces = self.engine.stream(request)  # queued now, not when the first piece is asked for
        chunks = self._chunks(request)
        return (chunks.make(piece) for piece in pieces)

    def request(self, infer_request: InferRequest, config: RequestConfig, *, adapter: str | None = None) -> Request:
        """The tokens to continue and how. ``adapter`` None means the engine's default, '' the model without any.

        Raises:
            RowError: the conversation cannot be rendered.
            RequestError: something is asked for that is not built.
        """
        messages, tools = chat.conversation(infer_request)
        prompt = self.template.prompt(messages, tools=tools, **infer_request.chat_template_kwargs)
        longest = max(1, self.max_model_len - len(prompt))
        sampling = chat.sampling(config, self._defaults, longest=longest, special=self._special)
        if self._stop_text:
            sampling = replace(sampling, stop=(*sampling.stop, self._stop_text))
        chosen = self.default_adapter if adapter is None else adapter or None
        return Request(f'r{next(self._ids)}', tuple(prompt), sampling, chosen)

    def close(self) -> None:
        """Abort what is open and free the model."""
        self.engine.close()

    def _adapter(self, request: AdapterRequest | None) -> str | None:
        if request is None:
            return None
        if request.name not in self.engine.adapters:
            self.engine.load_adapter(request.name, Path(request.path))
        return request.name

    def _collect(self, pieces: Iterable[Any], request: Request, config: RequestConfig) -> ChatCompletionResponse:
        return chat.collect(pieces, request.prompt_ids, config, self._style)

    def _chunks(self, request: Request) -> chat.Chunks:
        return chat.Chunks(len(request.prompt_ids), self._style)


# ------------------------------------------------------------------------------------------------------------- parts
def _builder(model: Any, args: ModelArgs, template: Template | None, changes: dict[str, Any]) -> Builder:
    """What ``model`` is, as a Builder. A model in memory brings its tokenizer's folder by its name."""
    from swift import models

    if isinstance(model, Builder):
        return model
    if not isinstance(model, nn.Module):
        return models.load(replace(args, model=str(model)), **changes)
    folder = model.config._name_or_path
    if template is None:
        if not folder:
            raise ConfigError('template: this model came from no folder with a tokenizer; pass a template')
        return replace(models.load(replace(args, model=folder)), build=lambda: model)
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

    return templates.make(builder.tokenizer, builder.info, TemplateArgs(template=name))


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
