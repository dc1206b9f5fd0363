"""``POST /v1/messages``: Anthropic's Messages API, put into the words of chat and back.

messages of blocks -> turns -> chat.prepare -> generate -> Parts -> blocks, and the events that tell how they grow
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import JSONResponse, Response

from swift.serve import chat, events, generate, strict, words
from swift.serve.call import Call
from swift.serve.errors import ApiError, invalid
from swift.serve.generate import Plan, Said
from swift.serve.house import House
from swift.serve.parts import Part, Parts, Step, respond
from swift.serve.schema import ChatRequest
from swift.serve.schema_messages import (
    AssistantMessage,
    Base64Source,
    CountRequest,
    CustomTool,
    ImageBlock,
    MessagesRequest,
    NamedToolChoice,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

NAMES = {'response_format': 'output_config.format', 'stop': 'stop_sequences'}
"""Fields of chat -> what they are called here."""
CHOICES = {'any': 'required', 'auto': 'auto', 'none': 'none'}
ENDINGS = {'stop': 'end_turn', 'length': 'max_tokens', 'tool_calls': 'tool_use', 'content_filter': 'refusal'}
TEXTS = {'content': 'text', 'reasoning': 'thinking'}


async def answer(asked: MessagesRequest, house: House, call: Call) -> Response:
    """Continue a conversation: whole, or as events."""
    plan = await _admitted(chat.prepare, asked, house, call)
    said = generate.answers(house, call, plan)
    kept = 'content' if house.verbose else None
    return await respond(_Message(asked, plan, house, call), said, call, stream=bool(asked.stream), kept=kept)


async def count(asked: CountRequest, house: House, call: Call) -> Response:
    """How many tokens the prompt has, however long it is."""
    request, _ = await _admitted(chat.rendered, asked, house, call)
    return JSONResponse({'input_tokens': len(request.prompt_ids)})


async def _admitted(make: Any, asked: CountRequest, house: House, call: Call) -> Any:
    try:
        return await chat.admitted(make, asked.model, lambda: conversation(asked), house, call)
    except ApiError as error:
        raise error.renamed(NAMES) from None


# ----------------------------------------------------------------------------------------------------------- request
def conversation(asked: CountRequest) -> ChatRequest:
    """The same in the words of chat. Raises ApiError."""
    if isinstance(asked.messages[-1], AssistantMessage):
        raise invalid("messages: the last one is an answer, which is not continued here; end with a user's", 'messages')
    said: dict[str, Any] = {'model': asked.model, 'messages': turns(asked)}
    if isinstance(asked, MessagesRequest):
        said |= {
            'max_completion_tokens': asked.max_tokens,
            'temperature': asked.temperature,
            'top_p': asked.top_p,
            'top_k': asked.top_k,
            'stop': asked.stop_sequences,
        }
    if asked.tools is not None:
        said['tools'] = [{'type': 'function', 'function': _function(tool)} for tool in asked.tools]
    if (choice := asked.tool_choice) is not None:
        said['parallel_tool_calls'] = not choice.disable_parallel_tool_use
        if isinstance(choice, NamedToolChoice):
            said['tool_choice'] = {'type': 'function', 'function': {'name': choice.name}}
        else:
            said['tool_choice'] = CHOICES[choice.type]
    if asked.thinking is not None:
        said['chat_template_kwargs'] = words.thinking(asked.thinking.type != 'disabled')
    if (output := asked.output_config) is not None:
        said['reasoning_effort'] = output.effort
        if output.format is not None:
            schema = {'name': 'answer', 'schema': output.format.schema_}
            said['response_format'] = {'type': 'json_schema', 'json_schema': schema}
    return strict.checked(_present(**said), ChatRequest)


def _function(tool: CustomTool) -> dict[str, Any]:
    about = {'name': tool.name, 'description': tool.description, 'strict': tool.strict}
    return _present(**about, parameters=tool.input_schema)


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def turns(asked: CountRequest) -> list[dict[str, Any]]:
    """Messages as turns: results of calls are turns of their own."""
    made: list[dict[str, Any]] = []
    if asked.system is not None:
        made.append({'role': 'system', 'content': _content(asked.system)})
    for message in asked.messages:
        if isinstance(message, AssistantMessage):
            made.append(_of_assistant(message))
        elif isinstance(message, UserMessage) and not isinstance(message.content, str):
            made += _of_user(message.content)
        else:
            made.append({'role': message.role, 'content': _content(message.content)})
    return made


def _of_user(blocks: list[Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            made.append({'role': 'tool', 'tool_call_id': block.tool_use_id, 'content': _content(block.content or '')})
        elif made and made[-1]['role'] == 'user':
            made[-1]['content'] += _content([block])
        else:
            made.append({'role': 'user', 'content': _content([block])})
    return made or [{'role': 'user', 'content': ''}]


def _of_assistant(message: AssistantMessage) -> dict[str, Any]:
    turn: dict[str, Any] = {'role': 'assistant'}
    if isinstance(message.content, str):
        return {**turn, 'content': message.content}
    thoughts, said, calls = [], [], []
    for block in message.content:
        if isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            function = {'name': block.name, 'arguments': json.dumps(block.input, ensure_ascii=False)}
            calls.append({'id': block.id, 'type': 'function', 'function': function})
        elif not isinstance(block, RedactedThinkingBlock):
            said.append(block)
    more = {'reasoning_content': ''.join(thoughts) or None, 'tool_calls': calls or None}
    return {**turn, **_present(**more, content=_content(said) if said or not calls else None)}


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(block) for block in content]


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {'type': 'text', 'text': block.text}
    source = block.source
    inline = isinstance(source, Base64Source)
    url = f'data:{source.media_type};base64,{source.data}' if inline else source.url
    return {'type': 'image_url', 'image_url': {'url': url}}


# ---------------------------------------------------------------------------------------------------------- response
class _Message:
    """A message while it is made, and the events that tell of it."""

    def __init__(self, asked: MessagesRequest, plan: Plan, house: House, call: Call):
        self.parts = Parts()
        self._asked, self._plan, self._house, self._call = asked, plan, house, call
        self._id = f'msg_{uuid.uuid4().hex}'

    async def events(self, said: AsyncGenerator[Said, None]) -> AsyncGenerator[dict[str, Any], None]:
        """The message as it grows. Raises ApiError."""
        begun = False
        async with events.whole(said):
            async for each in said:
                if not begun:
                    begun = True
                    yield {'type': 'message_start', 'message': self._message([], None, None)}
                    yield {'type': 'ping'}
                for step in self.parts.take(each):
                    yield _told(step)
        reason, sequence = self._ending()
        delta = {'stop_reason': reason, 'stop_sequence': sequence}
        yield {'type': 'message_delta', 'delta': delta, 'usage': self._usage()}
        yield {'type': 'message_stop'}

    def whole(self) -> dict[str, Any]:
        """All of it."""
        return self._message([_block(part) for part in self.parts.all], *self._ending())

    def _message(self, content: list[Any], reason: str | None, sequence: str | None) -> dict[str, Any]:
        return {
            'id': self._id,
            'type': 'message',
            'role': 'assistant',
            'model': self._call.model,
            'content': content,
            'stop_reason': reason,
            'stop_sequence': sequence,
            'usage': self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        return {
            'input_tokens': self._call.prompt_tokens,
            'output_tokens': self._call.answer_tokens,
            'output_tokens_details': {'thinking_tokens': self.parts.thinking_tokens},
        }

    def _ending(self) -> tuple[str, str | None]:
        """Why the answer ended, and the one of ``stop_sequences`` that ended it."""
        finish = self.parts.finish or 'stop'
        if finish == 'length' and len(self.parts.ids) < self._asked.max_tokens:
            return 'model_context_window_exceeded', None
        if finish == 'stop' and self._asked.stop_sequences:
            tokenizer: Any = self._house.chat.template.tokenizer
            text = tokenizer.decode(self.parts.ids, skip_special_tokens=False)
            found = [(text.find(word), word) for word in self._asked.stop_sequences if word in text]
            if found:
                return 'stop_sequence', min(found)[1]
        return ENDINGS[finish], None


def _told(step: Step) -> dict[str, Any]:
    """A step of a part as an event."""
    part = step.part
    if step.what == 'begin':
        return {'type': 'content_block_start', 'index': part.place, 'content_block': _block(part)}
    if step.what == 'end':
        return {'type': 'content_block_stop', 'index': part.place}
    if part.kind == 'call':
        delta = {'type': 'input_json_delta', 'partial_json': step.text}
    else:
        delta = {'type': f'{TEXTS[part.kind]}_delta', TEXTS[part.kind]: step.text}
    return {'type': 'content_block_delta', 'index': part.place, 'delta': delta}


def _block(part: Part) -> dict[str, Any]:
    """A part as a block."""
    if part.kind == 'call':
        return {'type': 'tool_use', 'id': part.id, 'name': part.name, 'input': _input(part.text)}
    name = TEXTS[part.kind]
    return {'type': name, name: part.text, **({'signature': ''} if name == 'thinking' else {})}


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object. What the model wrote and is none is passed on as Anthropic's guides say."""
    try:
        made = json.loads(arguments or '{}')
    except ValueError:
        made = None
    return made if isinstance(made, dict) else {'INVALID_JSON': arguments}
