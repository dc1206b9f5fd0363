"""What a client may send to OpenAI's Responses API, as closed types. Nothing is kept between requests here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag

from swift.serve import bounds
from swift.serve.schema import (
    Closed,
    FunctionSchema,
    Json,
    JsonObjectFormat,
    Metadata,
    Name,
    RefusalPart,
    Short,
    TextFormat,
    neutral,
)

STATELESS = 'is not supported: this server keeps nothing, so send the whole conversation as input'
Status = Literal['in_progress', 'completed', 'incomplete']


# ------------------------------------------------------------------------------------------------------------- input
class InputText(Closed):
    """A piece of text: of the input, or of an earlier answer."""

    type: Literal['input_text', 'output_text']
    text: str
    annotations: neutral([]) = None
    logprobs: neutral([]) = None


class InputImage(Closed):
    """A picture, for models that see: a ``data:`` URL."""

    type: Literal['input_image']
    image_url: str
    detail: Literal['auto', 'low', 'high'] | None = None


Content = Annotated[InputText | RefusalPart | InputImage, Field(discriminator='type')]
Contents = Annotated[list[Content], Field(max_length=bounds.MESSAGES)]


class MessageItem(Closed):
    """What somebody said."""

    type: Literal['message'] = 'message'
    role: Literal['user', 'assistant', 'system', 'developer']
    content: str | Contents
    id: Short | None = None
    status: Status | None = None
    phase: Short | None = None


class CallItem(Closed):
    """A call that the assistant made."""

    type: Literal['function_call']
    call_id: Short
    name: Name
    arguments: str
    id: Short | None = None
    status: Status | None = None


class OutputItem(Closed):
    """What a call came back with."""

    type: Literal['function_call_output']
    call_id: Short
    output: str | Contents
    id: Short | None = None
    status: Status | None = None


class Thought(Closed):
    """A piece of what the assistant thought, or of what it came to."""

    type: Literal['reasoning_text', 'summary_text']
    text: str


Thoughts = Annotated[list[Thought], Field(max_length=bounds.MESSAGES)]


class ReasoningItem(Closed):
    """What the assistant thought before it said something. Only ``content`` is shown to the model."""

    type: Literal['reasoning']
    id: Short | None = None
    summary: Thoughts
    content: Thoughts | None = None
    encrypted_content: str | None = None
    status: Status | None = None


def _kind(item: Any) -> Any:
    """The type of an item; messages may leave it out."""
    if isinstance(item, dict):
        return item.get('type', 'message')
    return getattr(item, 'type', None)


Item = Annotated[
    Annotated[MessageItem, Tag('message')]
    | Annotated[CallItem, Tag('function_call')]
    | Annotated[OutputItem, Tag('function_call_output')]
    | Annotated[ReasoningItem, Tag('reasoning')],
    Discriminator(
        _kind,
        custom_error_type='item_type',
        custom_error_message='the type must be message, function_call, function_call_output or reasoning',
    ),
]


# ------------------------------------------------------------------------------------------------------------- tools
def _function(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get('type') != 'function':
        raise ValueError('its type must be function: tools that OpenAI runs are not here')
    return tool


class FunctionTool(FunctionSchema):
    """A function that the model may want called."""

    type: Literal['function']
    output_schema: neutral() = None
    defer_loading: neutral(False) = None
    allowed_callers: neutral(['direct']) = None


class FunctionChoice(Closed):
    """The one function that must be called."""

    type: Literal['function']
    name: Name


# ------------------------------------------------------------------------------------------------------------ answer
class SchemaFormat(Closed):
    """JSON of a schema."""

    type: Literal['json_schema']
    name: Short
    schema_: Annotated[Json, Field(alias='schema')]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Closed):
    """What the text of the answer must be."""

    format: Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator='type')] | None = None
    verbosity: Short | None = None


class ReasoningConfig(Closed):
    """How much to think, where the chat template asks. Reasoning is given as it is, so ``summary`` changes nothing."""

    effort: Short | None = None
    summary: Short | None = None
    generate_summary: Short | None = None


class EventOptions(Closed):
    """Of streams. Nothing is added to hide lengths."""

    include_obfuscation: bool | None = None


class ResponsesRequest(Closed):
    """``POST /v1/responses``: a conversation to continue, as items."""

    input: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[Item], Field(min_length=1, max_length=bounds.MESSAGES)]
    )
    model: Name | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=bounds.TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=bounds.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: (
        Annotated[list[Annotated[FunctionTool, BeforeValidator(_function)]], Field(max_length=bounds.TOOLS)] | None
    ) = None
    tool_choice: Literal['none', 'auto', 'required'] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    stream_options: EventOptions | None = None
    include: Annotated[list[Literal['reasoning.encrypted_content']], Field(max_length=1)] | None = None
    """Asked for by clients of servers that hide reasoning; here it is in the items as it is."""
    user: Short | None = None
    safety_identifier: Short | None = None
    service_tier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_retention: Short | None = None
    store: neutral(False, why=STATELESS) = None
    previous_response_id: neutral(why=STATELESS) = None
    conversation: neutral(why=STATELESS) = None
    background: neutral(False, why=STATELESS) = None
    truncation: neutral('disabled') = None
    max_tool_calls: neutral() = None
    top_logprobs: neutral(0) = None
    prompt: neutral() = None
    context_management: neutral([]) = None
