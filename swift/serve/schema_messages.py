"""What a client may send to Anthropic's Messages API, as closed types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from swift.serve import bounds
from swift.serve.schema import Arguments, Closed, FunctionName, Json, Name, Short, Stop, neutral


# ------------------------------------------------------------------------------------------------------------ blocks
class CacheControl(Closed):
    """Where a cache may end. Beginnings that prompts share are read once by themselves."""

    type: Literal['ephemeral']
    ttl: Short | None = None


class Block(Closed):
    """What all blocks may have."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """A piece of text."""

    type: Literal['text']
    text: str
    citations: neutral([]) = None


class Base64Source(Closed):
    """A picture, in base64."""

    type: Literal['base64']
    media_type: Short
    data: str


class UrlSource(Closed):
    """Where a picture is."""

    type: Literal['url']
    url: str


class ImageBlock(Block):
    """A picture, for models that see."""

    type: Literal['image']
    source: Annotated[Base64Source | UrlSource, Field(discriminator='type')]


Seen = Annotated[
    list[Annotated[TextBlock | ImageBlock, Field(discriminator='type')]], Field(max_length=bounds.MESSAGES)
]


class ToolResultBlock(Block):
    """What a call came back with."""

    type: Literal['tool_result']
    tool_use_id: Short
    content: str | Seen | None = None
    is_error: bool | None = None


class ToolUseBlock(Block):
    """A call that the assistant made."""

    type: Literal['tool_use']
    id: Short
    name: Name
    input: Json
    caller: Json | None = None


class ThinkingBlock(Closed):
    """What the assistant thought."""

    type: Literal['thinking']
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Closed):
    """What an assistant elsewhere thought, and only its owner can read; the model is not shown it."""

    type: Literal['redacted_thinking']
    data: str


Asked = Annotated[TextBlock | ImageBlock | ToolResultBlock, Field(discriminator='type')]
Answered = Annotated[TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator='type')]
Texts = Annotated[list[TextBlock], Field(max_length=bounds.MESSAGES)]


# ---------------------------------------------------------------------------------------------------------- messages
class UserMessage(Closed):
    """What somebody says, and what calls came back with."""

    role: Literal['user']
    content: str | Annotated[list[Asked], Field(max_length=bounds.MESSAGES)]


class AssistantMessage(Closed):
    """What the assistant thought, said and wanted done."""

    role: Literal['assistant']
    content: str | Annotated[list[Answered], Field(max_length=bounds.MESSAGES)]


class SystemMessage(Closed):
    """What the assistant is told on the way."""

    role: Literal['system']
    content: str | Texts


# ------------------------------------------------------------------------------------------------------------- tools
def _custom(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get('type') not in (None, 'custom'):
        raise ValueError('its type must be custom: tools that Anthropic runs or defines are not here')
    return tool


class CustomTool(Block):
    """A function that the model may want called."""

    type: Literal['custom'] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: Arguments
    strict: bool | None = None
    input_examples: neutral([]) = None
    defer_loading: neutral(False) = None
    allowed_callers: neutral(['direct']) = None
    eager_input_streaming: bool | None = None


class ToolChoice(Closed):
    """Whether tools are called: as the model likes, at least one, or none."""

    type: Literal['auto', 'any', 'none']
    disable_parallel_tool_use: bool | None = None


class NamedToolChoice(Closed):
    """The one tool that must be called."""

    type: Literal['tool']
    name: Name
    disable_parallel_tool_use: bool | None = None


# ---------------------------------------------------------------------------------------------------------- requests
class ThinkingConfig(Closed):
    """Whether to think first, where the chat template asks. ``max_tokens`` is the limit of thinking and answer."""

    type: Literal['enabled', 'disabled', 'adaptive']
    budget_tokens: Annotated[int, Field(ge=1, le=bounds.TOKENS)] | None = None
    display: neutral('summarized') = None


class JsonFormat(Closed):
    """JSON of a schema."""

    type: Literal['json_schema']
    schema_: Annotated[Json, Field(alias='schema')]


class OutputConfig(Closed):
    """What the answer must be, and how much to think about it."""

    format: JsonFormat | None = None
    effort: Short | None = None


class Asker(Closed):
    """Who asks."""

    user_id: Short | None = None


class CountRequest(Closed):
    """``POST /v1/messages/count_tokens``: how long a prompt is."""

    model: Name | None = None
    messages: Annotated[
        list[Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator='role')]],
        Field(min_length=1, max_length=bounds.MESSAGES),
    ]
    system: str | Texts | None = None
    tools: Annotated[list[Annotated[CustomTool, BeforeValidator(_custom)]], Field(max_length=bounds.TOOLS)] | None = (
        None
    )
    tool_choice: Annotated[ToolChoice | NamedToolChoice, Field(discriminator='type')] | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    speed: neutral('standard') = None


class MessagesRequest(CountRequest):
    """``POST /v1/messages``: a conversation to continue."""

    max_tokens: Annotated[int, Field(ge=1, le=bounds.TOKENS)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=bounds.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=bounds.STOPS)] | None = None
    metadata: Asker | None = None
    service_tier: Short | None = None
    inference_geo: neutral() = None
    container: neutral() = None
    mcp_servers: neutral([]) = None
    context_management: neutral() = None
