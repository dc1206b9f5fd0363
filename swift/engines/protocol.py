"""What goes into an engine and what comes out, under the names and defaults of the OpenAI API and of ms-swift scripts.

InferRequest, RequestConfig -> ChatCompletionResponse, or ChatCompletionStreamResponse pieces with ``stream``
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

FinishReason = Literal['stop', 'length', 'abort', 'tool_calls']


# --------------------------------------------------------------------------------------------------------- requests
@dataclass
class InferRequest:
    """A conversation to continue. ``messages`` as in datasets; ``tools`` are OpenAI tool schemas."""

    messages: list[dict[str, Any]]
    images: list[Any] = field(default_factory=list)
    audios: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    objects: dict[str, Any] = field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def remove_response(messages: list[dict[str, Any]]) -> str | list[dict[str, Any]] | None:
        """Take the last answer off ``messages`` and return its content; None if the last turn is no answer."""
        last = messages[-1] if messages else {}
        return messages.pop()['content'] if last.get('role') == 'assistant' else None

    def to_printable(self) -> dict[str, Any]:
        """Its fields as JSON values; long data URLs are cut."""
        return printable(asdict(self))


@dataclass
class RequestConfig:
    """How to answer. None takes the model's own ``generation_config.json``, and no limit of tokens but the context."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_beams: int = 1
    stop: list[str] | None = field(default_factory=list)
    seed: int | None = None
    stream: bool = False
    logprobs: bool = False
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    """Neither end tokens nor ``stop`` end the answer before it has so many."""
    logit_bias: dict[int, float] | None = None
    """What is added to the logits of tokens."""
    length_penalty: float = 1.0
    return_details: bool = False
    """Return the token ids of prompt and answer as well."""
    structured_outputs_regex: str | None = None
    """A regular expression that the whole answer matches."""
    response_format: dict[str, Any] | None = None
    """What the answer is, as in the OpenAI API: ``{'type': 'json_schema', 'json_schema': {'schema': ...}}``."""
    structured_outputs: dict[str, Any] | None = None
    """The same as in vLLM: one of ``json``, ``regex``, ``choice``, ``grammar`` and ``json_object``."""
    ignore_eos: bool = False
    """Go on after the model's end tokens, up to ``max_tokens``."""


@dataclass(frozen=True)
class AdapterRequest:
    """Answer with this adapter; it is loaded from ``path`` when its name is new."""

    name: str
    path: str | Path


# -------------------------------------------------------------------------------------------------------- responses
@dataclass
class UsageInfo:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass
class Function:
    """A call that the model wants made; ``arguments`` is JSON text, as in the OpenAI API."""

    name: str
    arguments: str | None


@dataclass
class ChatCompletionMessageToolCall:
    """A function call of an answer."""

    function: Function
    type: str = 'function'
    id: str = field(default_factory=lambda: f'toolcall-{uuid.uuid4().hex}')


@dataclass
class ChatMessage:
    """An answer."""

    role: str
    content: str | None
    tool_calls: list[ChatCompletionMessageToolCall] | None = None
    reasoning_content: str | None = None


@dataclass
class DeltaMessage:
    """A piece of an answer."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[ChatCompletionMessageToolCall] | None = None
    reasoning_content: str | None = None


@dataclass
class ChatCompletionResponseChoice:
    """One of the ``n`` answers. ``logprobs`` is ``{'content': [{'token', 'logprob', 'bytes', 'top_logprobs'}]}``."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason | None
    logprobs: dict[str, Any] | None = None
    token_ids: list[int] | None = None
    routed_experts: Any = None


@dataclass
class ChatCompletionResponse:
    """A whole response."""

    model: str
    choices: list[ChatCompletionResponseChoice]
    usage: UsageInfo
    id: str = field(default_factory=lambda: f'chatcmpl-{uuid.uuid4().hex}')
    object: str = 'chat.completion'
    created: int = field(default_factory=lambda: int(time.time()))
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: Any = None
    images_size: Any = None


@dataclass
class ChatCompletionResponseStreamChoice:
    """A piece of one of the answers; the last one carries ``finish_reason``."""

    index: int
    delta: DeltaMessage
    finish_reason: FinishReason | None = None
    logprobs: dict[str, Any] | None = None


@dataclass
class ChatCompletionStreamResponse:
    """A piece of a response. ``usage`` counts up to here."""

    model: str
    choices: list[ChatCompletionResponseStreamChoice]
    usage: UsageInfo | None = None
    id: str = field(default_factory=lambda: f'chatcmpl-{uuid.uuid4().hex}')
    object: str = 'chat.completion.chunk'
    created: int = field(default_factory=lambda: int(time.time()))


LONGEST_SHOWN = 500


def printable(value: Any) -> Any:
    """JSON values for a log: what files hold is cut."""
    if isinstance(value, Mapping):
        if value.get('type') == 'base64':
            value = {**value, 'data': f'<{len(str(value.get("data")))} characters>'}
        return {key: printable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [printable(each) for each in value]
    if isinstance(value, bytes):
        return f'<{len(value)} bytes>'
    if isinstance(value, str) and value.startswith('data:') and len(value) > LONGEST_SHOWN:
        return f'{value[:LONGEST_SHOWN]}...'
    return value
