"""``ChatEngine``: messages in, chat completions out, over any engine. Scripts, commands and servers hold it.

InferRequest --template.prompt--> Request --Engine--> pieces --chat.collect--> ChatCompletionResponse
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from swift.core.errors import ConfigError, RequestError
from swift.core.types import Engine, Eye, Piece, Request, Template
from swift.data.progress import track
from swift.engines import chat
from swift.engines.protocol import (
    AdapterRequest,
    ChatCompletionResponse,
    ChatCompletionStreamResponse,
    InferRequest,
    RequestConfig,
)
from swift.models import pictures as files
from swift.templates import answers

BATCH = 16  # answers at once where nothing is said
AHEAD = 4  # batches of requests that ``answers`` keeps queued, so that no row of a batch stays empty


class _Begun(NamedTuple):
    """A request that is queued, and where its pieces come."""

    request: Request
    config: RequestConfig
    pieces: Iterator[Piece]
    hear: chat.Hear


class ChatEngine:
    """Answers conversations with an engine. Nothing here knows which one, or where it runs.

    Args:
        engine: Answers tokens with pieces.
        template: How conversations become prompts, and tokens text.
        model_name: What responses say answered them.
        max_model_len: Tokens of a prompt with its answer.
        defaults: What the model's generation config says.
        special: Tokens that are one id each; as stop words they are recognised by it.
        response_prefix: What the template already puts before each answer: shown as its beginning.
        default_adapter: Answers every request that names no adapter.
        max_batch_size: Answers that the engine decodes at once.
        angled: Whether its grammars take every added token in angle brackets for a control token.
    """

    def __init__(
        self,
        engine: Engine,
        template: Template,
        *,
        model_name: str,
        max_model_len: int,
        defaults: chat.Defaults | None = None,
        special: Mapping[str, int] | None = None,
        response_prefix: str | None = None,
        default_adapter: str | None = None,
        max_batch_size: int = BATCH,
        angled: bool = False,
    ):
        self.engine = engine
        self.template = template
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.default_adapter = default_adapter
        known = defaults or chat.Defaults()
        self.defaults = replace(known, end_ids=tuple(dict.fromkeys((*template.stop_ids, *known.end_ids))))
        self._special = special or {}
        self._stop_text = getattr(template, 'stop_text', '')  # of templates whose answers end with no token
        self.prefix = response_prefix or ''
        self._style = chat.Style(model_name, template.decode, self.prefix)
        eye: Eye | None = getattr(template, 'eye', None)  # of templates of models that see
        self.blind = f'{model_name} takes text alone; send no pictures' if eye is None else eye.blind
        """Why no picture is taken; None where pictures are."""
        self.at_once = max_batch_size
        self.angled = angled
        self._ids = itertools.count()

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
        hear = self._hear(infer_request, request)
        if config.stream:
            chunks = chat.Chunks(len(request.prompt_ids), self._style, hear)
            return (chunks.make(piece) async for piece in pieces)
        said = [piece async for piece in pieces]
        return chat.collect(said, request.prompt_ids, config, self._style, hear)

    # -------------------------------------------------------------------------------------------------------- ours
    def answers(
        self, asked: Iterable[tuple[InferRequest, RequestConfig]], *, adapter: str | None = None
    ) -> Iterator[ChatCompletionResponse | Exception]:
        """Responses in the order of ``asked``, which is read as answers come: it may be any length.

        A request that cannot be answered gives its exception in its place. Closing the iterator aborts what is open.
        """
        window = AHEAD * min(self.at_once, BATCH * AHEAD)
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
            return _Begun(request, config, self.engine.stream(request), self._hear(infer_request, request))
        except Exception as error:
            return error

    def _finish(self, begun: _Begun | Exception) -> ChatCompletionResponse | Exception:
        """Wait for a request that was queued."""
        if isinstance(begun, Exception):
            return begun
        try:
            return chat.collect(begun.pieces, begun.request.prompt_ids, begun.config, self._style, begun.hear)
        except Exception as error:
            return error

    def stream(
        self, infer_request: InferRequest, config: RequestConfig, *, adapter: str | None = None
    ) -> Iterator[ChatCompletionStreamResponse]:
        """The pieces of one response. Closing the iterator aborts the request."""
        request = self.request(infer_request, config, adapter=adapter)
        pieces = self.engine.stream(request)  # queued now, not when the first piece is asked for
        chunks = chat.Chunks(len(request.prompt_ids), self._style, self._hear(infer_request, request))
        return (chunks.make(piece) for piece in pieces)

    def request(self, infer_request: InferRequest, config: RequestConfig, *, adapter: str | None = None) -> Request:
        """The tokens to continue and how. ``adapter`` None means the engine's default, '' the model without any.

        Raises:
            RowError: the conversation cannot be rendered.
            RequestError: something is asked for that is not built, or a picture cannot be read.
        """
        messages, shown = chat.conversation(infer_request, self.model_name)
        tools = chat.tools(infer_request)
        if shown and self.blind is not None:
            raise RequestError(self.blind, param='messages')
        pictures = tuple(map(files.read, shown))
        prompt = self.template.prompt(messages, tools=tools, pictures=pictures, **infer_request.chat_template_kwargs)
        request = self.plain(prompt, config, adapter=adapter)
        stops = (*answers.stops(self.template, tools), *([self._stop_text] if self._stop_text else []))
        sampling = replace(request.sampling, stop=(*request.sampling.stop, *stops))
        return replace(request, sampling=sampling, pictures=pictures)

    def plain(self, prompt: Sequence[int], config: RequestConfig, *, adapter: str | None = None) -> Request:
        """``request`` for tokens that are continued as they stand."""
        longest = max(1, self.max_model_len - len(prompt))
        sampling = chat.sampling(config, self.defaults, longest=longest, special=self._special)
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

    def _hear(self, infer_request: InferRequest, request: Request) -> chat.Hear:
        """What finds reasoning and tool calls in the answers to a request."""
        tools = chat.tools(infer_request)
        return answers.listener(self.template, tools=tools, prompt_ids=request.prompt_ids, prefix=self.prefix)
