"""``InferClient``: conversations to any server that speaks OpenAI's chat completions, answers in the words of our API.

For servers that take tokens there is ``client.RemoteEngine``; this one serves all others, our own and public ones too.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from swift.core.errors import ConfigError, SwiftError
from swift.data.progress import track
from swift.engines import protocol
from swift.engines.connection import Connection
from swift.engines.protocol import (
    ChatCompletionResponse,
    ChatCompletionStreamResponse,
    InferRequest,
    RequestConfig,
)

AT_ONCE = 64  # requests under way together
PATH = '/chat/completions'
PLAIN = RequestConfig()
Response = ChatCompletionResponse | Iterator[ChatCompletionStreamResponse]


class InferClient:
    """A server's chat.

    Args:
        base_url: Where its API begins, ``http://host:port/v1``; else it is made of ``host`` and ``port``.
        api_key: The key; ``EMPTY`` and None are none.
        timeout: Seconds without a byte after which a request fails.

    Raises:
        ConfigError: ``base_url`` is no URL.
    """

    def __init__(
        self,
        host: str = '127.0.0.1',
        port: int = 8000,
        api_key: str | None = 'EMPTY',
        *,
        base_url: str | None = None,
        timeout: float = 86400,
    ):
        url = base_url or f'http://{host}:{port}/v1'
        self._connection = Connection(url, key=None if api_key == 'EMPTY' else api_key, timeout=timeout)
        self.close = self._connection.close
        self._models: list[str] | None = None

    @property
    def models(self) -> list[str]:
        """The models that the server has. Raises SwiftError when it cannot be asked."""
        if self._models is None:
            self._models = [each['id'] for each in self._connection.call('/models')['data']]
        return self._models

    def infer(
        self,
        infer_requests: Sequence[InferRequest],
        request_config: RequestConfig | None = None,
        metrics: Sequence[Any] | None = None,
        *,
        model: str | None = None,
        use_tqdm: bool | None = None,
    ) -> list[ChatCompletionResponse] | list[Iterator[ChatCompletionStreamResponse]]:
        """Have all requests answered, many at once.

        Args:
            metrics: Objects whose ``update`` is called with each response.
            model: Which of the server's models; None takes its only one.
            use_tqdm: False hides the progress bar.

        Returns:
            One response per request, in their order; with ``request_config.stream`` one iterator per request.

        Raises:
            SwiftError: the first request that cannot be answered.
        """
        config, name = request_config or PLAIN, model or self._model()
        if config.stream:
            return [self._stream(body(request, config, name)) for request in infer_requests]
        found = self._answers([body(request, config, name) for request in infer_requests])
        if use_tqdm is not False and len(infer_requests) > 1:
            found = track(found, 'answers', total=len(infer_requests))
        responses = []
        for response in found:
            responses.append(response)
            for metric in metrics or ():
                metric.update(response)
        return responses

    async def infer_async(
        self, infer_request: InferRequest, request_config: RequestConfig | None = None, *, model: str | None = None
    ) -> ChatCompletionResponse | AsyncIterator[ChatCompletionStreamResponse]:
        """Have one request answered; with ``stream`` the pieces as they come."""
        import asyncio

        config = request_config or PLAIN
        asked = body(infer_request, config, model or await asyncio.to_thread(self._model))
        if not config.stream:
            return whole(await asyncio.wrap_future(self._connection.start(self._connection.ask(PATH, asked))))
        chunks = self._stream(asked)

        async def pieces() -> AsyncIterator[ChatCompletionStreamResponse]:
            while (piece := await asyncio.to_thread(next, chunks, None)) is not None:
                yield piece

        return pieces()

    def _model(self) -> str:
        if len(self.models) != 1:
            raise ConfigError(f'model: {self._connection.url} has {", ".join(self.models) or "none"}; name one of them')
        return self.models[0]

    def _answers(self, bodies: list[dict[str, Any]]) -> Iterator[ChatCompletionResponse]:
        """The responses in order, some requests ahead of the one that is waited for."""
        pending: deque[Any] = deque()
        try:
            for each in bodies:
                pending.append(self._connection.start(self._connection.ask(PATH, each)))
                if len(pending) >= AT_ONCE:
                    yield whole(pending.popleft().result())
            while pending:
                yield whole(pending.popleft().result())
        finally:
            for future in pending:
                future.cancel()

    def _stream(self, asked: dict[str, Any]) -> Iterator[ChatCompletionStreamResponse]:
        """The pieces of one response; leaving early hangs up."""
        pieces: SimpleQueue[Any] = SimpleQueue()

        async def read() -> None:
            try:
                async for event in self._connection.events(PATH, {**asked, 'stream': True}):
                    pieces.put(chunk(event))
                pieces.put(None)
            except Exception as error:
                pieces.put(error)

        reading = self._connection.start(read())

        def read_on() -> Iterator[ChatCompletionStreamResponse]:
            try:
                while (item := pieces.get()) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item
            finally:
                reading.cancel()

        return read_on()


# ------------------------------------------------------------------------------------------------- words of the API
def body(request: InferRequest, config: RequestConfig, model: str) -> dict[str, Any]:
    """A request as JSON. What is as it is by itself is left out: other servers do not know all of our fields."""
    said = {'model': model, 'messages': request.messages}
    for source, plain in ((request, InferRequest([])), (config, PLAIN)):
        for spec in dataclasses.fields(source):
            value = getattr(source, spec.name)
            if spec.name != 'messages' and value is not None and value != getattr(plain, spec.name):
                said[spec.name] = value
    if config.stream:
        said['stream_options'] = {'include_usage': True}
    return said


def whole(said: Any) -> ChatCompletionResponse:
    """A response out of its JSON. Raises SwiftError when it is none."""
    try:
        choices = [
            _made(protocol.ChatCompletionResponseChoice, each, message=_message(protocol.ChatMessage, each['message']))
            for each in said['choices']
        ]
        return _made(ChatCompletionResponse, said, choices=choices, usage=_usage(said.get('usage')))
    except (KeyError, TypeError, AttributeError) as error:
        raise SwiftError(f'the server answered what is no chat completion ({error!r}): {str(said)[:300]}') from error


def chunk(said: dict[str, Any]) -> ChatCompletionStreamResponse:
    """A piece out of its JSON. Raises SwiftError when it is none."""
    try:
        choices = [
            _made(
                protocol.ChatCompletionResponseStreamChoice, each, delta=_message(protocol.DeltaMessage, each['delta'])
            )
            for each in said['choices']
        ]
        usage = said.get('usage')
        return _made(ChatCompletionStreamResponse, said, choices=choices, usage=_usage(usage) if usage else None)
    except (KeyError, TypeError, AttributeError) as error:
        raise SwiftError(f'the server streams what is no chat completion ({error!r}): {str(said)[:300]}') from error


def _message(kind: type, said: dict[str, Any]) -> Any:
    calls = [
        _made(protocol.ChatCompletionMessageToolCall, each, function=_made(protocol.Function, each['function']))
        for each in said.get('tool_calls') or ()
    ]
    thought = said.get('reasoning_content') or said.get('reasoning')
    return _made(kind, {'role': None, 'content': None, **said}, tool_calls=calls or None, reasoning_content=thought)


def _usage(said: dict[str, Any] | None) -> protocol.UsageInfo:
    return _made(protocol.UsageInfo, said or {})


def _made(kind: type, said: dict[str, Any], **parts: Any) -> Any:
    """A dataclass out of what is known to it in ``said``; the rest is other servers' own."""
    known = {spec.name for spec in dataclasses.fields(kind)}
    defaults = {'name': None, 'arguments': None} if kind is protocol.Function else {}  # later pieces of a call
    return kind(**{**defaults, **{name: value for name, value in said.items() if name in known}, **parts})
