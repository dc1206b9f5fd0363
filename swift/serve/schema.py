"""What a client may send, as closed types: one schema gives validation, OpenAPI documentation, limits and fuzzing.

Every field of OpenAI's chat and completions APIs is here, and those that vLLM and ms-swift add. A field that is not is
an error. Fields whose feature is not there (``Neutral``) take the one value that asks for nothing, so that clients
which always send them are served, and nobody is answered as if they had been heard.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from swift.serve import bounds, shape


class Closed(BaseModel):
    """Unknown fields, NaN and values of another type are errors."""

    model_config = ConfigDict(extra='forbid', allow_inf_nan=False, strict=True, frozen=True, protected_namespaces=())


def neutral(*values: Any, why: str = 'is not supported here; leave it out') -> Any:
    """A field that is taken only with a value that asks for nothing; ``why`` it is so."""

    def check(value: Any) -> Any:
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values):
            shown = ', '.join('null' if each is None else repr(each) for each in (None, *values) if each != '')
            raise ValueError(f'{why} (taken without effect: {shown})')
        return value

    plain = [each for each in values if each is not None]
    return Annotated[
        Any,
        AfterValidator(lambda value: None if value is None else check(value)),
        WithJsonSchema({'enum': [None, *plain]}),
    ]


Name = Annotated[str, StringConstraints(min_length=1, max_length=bounds.NAME)]
FunctionName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r'^[A-Za-z0-9_.:-]+$')]
Short = Annotated[str, StringConstraints(max_length=bounds.NAME)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=bounds.STOP_LENGTH)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=bounds.GRAMMAR_BYTES)]
Tokens = Annotated[int, Field(ge=0, le=bounds.TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Id = Annotated[str, StringConstraints(pattern=r'^(0|[1-9][0-9]{0,9})$')]
"""A token's id as a key of JSON."""
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=bounds.TOKENS)]
Biases = Annotated[dict[Id, Annotated[float, Field(ge=-bounds.BIAS, le=bounds.BIAS)]], Field(max_length=bounds.BIASES)]
Json = dict[str, Any]


def _shaped(schema: Json) -> Json:
    if wrong := shape.problem(schema):
        raise ValueError(wrong)
    return schema


Arguments = Annotated[Json, AfterValidator(_shaped)]
"""The schema of a tool's arguments."""
Metadata = Annotated[dict[Short, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=bounds.METADATA)]


# ---------------------------------------------------------------------------------------------------------- messages
class TextPart(Closed):
    """A piece of text."""

    type: Literal['text', 'input_text', 'output_text']
    text: str


class RefusalPart(Closed):
    """What an assistant said instead of an answer."""

    type: Literal['refusal']
    refusal: str


class ImageUrl(Closed):
    """Where a picture is: a ``data:`` URL."""

    url: str
    detail: Literal['auto', 'low', 'high'] | None = None


class ImagePart(Closed):
    """A picture, for models that see."""

    type: Literal['image_url']
    image_url: ImageUrl


class Audio(Closed):
    """Sound, in base64."""

    data: str
    format: Short


class AudioPart(Closed):
    """Sound, for models that hear."""

    type: Literal['input_audio']
    input_audio: Audio


Part = Annotated[TextPart | RefusalPart | ImagePart | AudioPart, Field(discriminator='type')]
Parts = Annotated[list[Part], Field(max_length=bounds.MESSAGES)]


class FunctionCall(Closed):
    """A function and its arguments, as JSON text."""

    name: Name
    arguments: str


class Call(Closed):
    """A call that an assistant made."""

    id: Short | None = None
    type: Literal['function'] = 'function'
    function: FunctionCall
    index: int | None = None


class System(Closed):
    """What the assistant is told about itself."""

    role: Literal['system', 'developer']
    content: str | Parts
    name: Short | None = None


class User(Closed):
    """What somebody says to the assistant."""

    role: Literal['user']
    content: str | Parts
    name: Short | None = None


class Assistant(Closed):
    """What the assistant said, thought or wanted done."""

    role: Literal['assistant']
    content: str | Parts | None = None
    name: Short | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[Call], Field(max_length=bounds.TOOLS)] | None = None
    function_call: neutral() = None
    audio: neutral() = None
    annotations: neutral([]) = None


class ToolResult(Closed):
    """What a call came back with."""

    role: Literal['tool']
    content: str | Parts
    tool_call_id: Short | None = None
    name: Short | None = None


Turn = Annotated[System | User | Assistant | ToolResult, Field(discriminator='role')]


# ------------------------------------------------------------------------------------------------------------- tools
class FunctionSchema(Closed):
    """A function that the model may want called."""

    name: FunctionName
    description: str | None = None
    parameters: Arguments | None = None
    strict: bool | None = None


class Tool(Closed):
    """A tool is a function."""

    type: Literal['function']
    function: FunctionSchema


class NamedFunction(Closed):
    """A function by its name."""

    name: Name


class NamedTool(Closed):
    """The one function that must be called."""

    type: Literal['function']
    function: NamedFunction


# ------------------------------------------------------------------------------------------------- structured output
class JsonSchema(Closed):
    """A JSON schema and its name."""

    name: Short | None = None
    description: str | None = None
    schema_: Annotated[Json | None, Field(alias='schema')] = None
    strict: bool | None = None


class TextFormat(Closed):
    """Any text."""

    type: Literal['text']


class JsonObjectFormat(Closed):
    """Any JSON object."""

    type: Literal['json_object']


class JsonSchemaFormat(Closed):
    """JSON of a schema."""

    type: Literal['json_schema']
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator='type')]
Choices = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]], Field(min_length=1, max_length=256)
]


class StructuredOutputs(Closed):
    """vLLM's way of saying what an answer must be: one of the four."""

    json_: Annotated[Json | Pattern | None, Field(alias='json')] = None
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None


class StreamOptions(Closed):
    """``include_usage``: a last chunk counts the tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


# ---------------------------------------------------------------------------------------------------------- requests
class Generation(Closed):
    """What chat and plain completions share."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=bounds.ANSWERS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=bounds.TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=bounds.TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=bounds.STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=bounds.STOPS)] | None = None
    seed: Annotated[int, Field(ge=-bounds.SEED - 1, le=bounds.SEED)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: neutral(True) = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: neutral(False) = None
    return_token_ids: neutral(False) = None
    min_tokens: Tokens | None = None
    logit_bias: Biases | None = None
    length_penalty: neutral(1) = None
    use_beam_search: neutral(False) = None
    num_beams: neutral(1) = None
    early_stopping: neutral(False) = None
    truncate_prompt_tokens: neutral() = None
    prompt_logprobs: neutral() = None
    priority: neutral(0) = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Json | Pattern | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None
    guided_decoding_backend: Short | None = None
    guided_whitespace_pattern: neutral() = None
    structured_outputs_regex: Pattern | None = None
    user: Short | None = None
    safety_identifier: Short | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: Short | None = None
    prompt_cache_key: Short | None = None
    prompt_cache_retention: Short | None = None
    return_details: bool | None = None
    """Return the token ids of prompt and answer as well, as ms-swift does."""

    @model_validator(mode='after')
    def _agree(self) -> Any:
        if self.stream_options is not None and not self.stream:
            raise ValueError('stream_options needs stream')
        grammars = [name for name in GRAMMARS if getattr(self, name) is not None]
        if len(grammars) > 1:
            raise ValueError(f'{" and ".join(grammars)}: one of them says what an answer must be')
        return self


GRAMMARS = (
    'response_format', 'structured_outputs', 'guided_json', 'guided_regex', 'guided_choice', 'guided_grammar',
    'structured_outputs_regex',
)  # fmt: skip


class ChatRequest(Generation):
    """``POST /v1/chat/completions``: a conversation to continue."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=bounds.MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=bounds.TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=bounds.TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=bounds.TOOLS)] | None = None
    tool_choice: Literal['none', 'auto', 'required'] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Short | None = None
    include_reasoning: bool | None = None
    verbosity: Short | None = None
    modalities: neutral(['text']) = None
    audio: neutral() = None
    prediction: neutral() = None
    web_search_options: neutral() = None
    functions: neutral([]) = None
    function_call: neutral('none') = None
    best_of: neutral(1) = None
    echo: neutral(False) = None
    add_generation_prompt: neutral(True) = None
    continue_final_message: neutral(False) = None
    add_special_tokens: neutral(False) = None
    chat_template_kwargs: Annotated[Json, Field(max_length=32)] | None = None
    images: neutral([]) = None
    audios: neutral([]) = None
    videos: neutral([]) = None
    objects: neutral({}) = None

    @model_validator(mode='after')
    def _agree_chat(self) -> Any:
        if self.top_logprobs and not self.logprobs:
            raise ValueError('top_logprobs needs logprobs')
        if self.tool_choice not in (None, 'none', 'auto') and not self.tools:
            raise ValueError('tool_choice needs tools')
        if isinstance(self.tool_choice, NamedTool):
            names = [tool.function.name for tool in self.tools or ()]
            if self.tool_choice.function.name not in names:
                raise ValueError(f'tool_choice names {self.tool_choice.function.name}, which is none of the tools')
        return self


class CompletionRequest(Generation):
    """``POST /v1/completions``: texts to continue as they stand."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=bounds.PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=bounds.PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=bounds.TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=bounds.TOP_LOGPROBS)] | None = None
    best_of: neutral(1) = None
    suffix: neutral('') = None
    add_special_tokens: bool | None = None


# ------------------------------------------------------------------------------------------------- models that read
Text = Annotated[str, StringConstraints(min_length=1)]
Inputs = Text | Annotated[list[Text], Field(min_length=1, max_length=bounds.INPUTS)]


class Reading(Closed):
    """What all requests to models that read share."""

    model: Name | None = None
    user: Short | None = None
    truncate_prompt_tokens: neutral() = None
    priority: neutral(0) = None


class EmbeddingRequest(Reading):
    """``POST /v1/embeddings``: a vector for each text."""

    input: Inputs
    encoding_format: Literal['float', 'base64'] | None = None
    dimensions: neutral() = None


class RerankRequest(Reading):
    """``POST /v1/rerank``: documents in the order of how well they answer a query."""

    query: Text
    documents: Annotated[list[Text], Field(min_length=1, max_length=bounds.INPUTS)]
    top_n: Annotated[int, Field(ge=0, le=bounds.INPUTS)] | None = None
    return_documents: bool | None = None


class ScoreRequest(Reading):
    """``POST /v1/score``: how well texts answer a text; one with many, or pair by pair."""

    text_1: Inputs
    text_2: Inputs
    encoding_format: Literal['float'] | None = None

    @model_validator(mode='after')
    def _agree(self) -> Any:
        first, second = self.text_1, self.text_2
        if isinstance(first, list) and len(first) > 1 and (isinstance(second, str) or len(first) != len(second)):
            raise ValueError('text_1 and text_2: give one text with many, or lists of the same length')
        return self


class ClassifyRequest(Reading):
    """``POST /v1/classify``: the class of each text."""

    input: Inputs


class AdapterLoad(Closed):
    """``POST /v1/load_lora_adapter``: put an adapter beside the others."""

    lora_name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r'^[A-Za-z0-9_.-]+$')]
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class AdapterUnload(Closed):
    """``POST /v1/unload_lora_adapter``: take it off."""

    lora_name: Name
    lora_int_id: int | None = None
