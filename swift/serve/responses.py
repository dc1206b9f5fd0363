"""``POST /v1/responses``: OpenAI's Responses API, put into the words of chat and back. Nothing is kept.

items -> turns -> chat.prepare -> generate -> Parts -> items, and the events that tell how they grow
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.responses import Response

from swift.serve import chat, events, generate, strict, words
from swift.serve.call import Call
from swift.serve.errors import ApiError
from swift.serve.generate import Plan, Said
from swift.serve.house import House
from swift.serve.parts import Part, Parts, Step, respond
from swift.serve.schema import ChatRequest, RefusalPart
from swift.serve.schema_responses import (
    CallItem,
    FunctionChoice,
    InputImage,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ResponsesRequest,
    SchemaFormat,
)

NAMES = {'messages': 'input', 'response_format': 'text.format', 'max_tokens': 'max_output_tokens'}
"""Fields of chat -> what they are called here."""
SAME = (
    'model', 'temperature', 'top_p', 'parallel_tool_calls', 'metadata', 'user', 'safety_identifier', 'service_tier',
    'prompt_cache_key', 'prompt_cache_retention',
)  # fmt: skip
CUT = {'length': 'max_output_tokens', 'content_filter': 'content_filter'}
"""Reasons for which an answer is not complete."""
SHORT = {'content': 'msg', 'reasoning': 'rs', 'call': 'fc'}
TEXTS = {'content': 'output_text', 'reasoning': 'reasoning_text'}


async def answer(asked: ResponsesRequest, house: House, call: Call) -> Response:
    """Continue a conversation: whole, or as events."""
    try:
        plan = await chat.admitted(chat.prepare, asked.model, lambda: conversation(asked), house, call)
    except ApiError as error:
        raise error.renamed(NAMES) from None
    said = generate.answers(house, call, plan)
    kept = 'output' if house.verbose else None
    return await respond(_Response(asked, plan, call), said, call, stream=bool(asked.stream), kept=kept)


# ----------------------------------------------------------------------------------------------------------- request
def conversation(asked: ResponsesRequest) -> ChatRequest:
    """The same in the words of chat. Raises ApiError."""
    said = {name: getattr(asked, name) for name in SAME}
    said |= {'messages': turns(asked), 'max_completion_tokens': asked.max_output_tokens}
    if asked.tools is not None:
        wanted = {'name', 'description', 'parameters', 'strict'}
        said['tools'] = [
            {'type': 'function', 'function': tool.model_dump(include=wanted, exclude_none=True)} for tool in asked.tools
        ]
    choice = asked.tool_choice
    named = isinstance(choice, FunctionChoice)
    said['tool_choice'] = {'type': 'function', 'function': {'name': choice.name}} if named else choice
    if asked.text is not None:
        said |= {'response_format': _format(asked.text.format), 'verbosity': asked.text.verbosity}
    if asked.reasoning is not None:
        said['reasoning_effort'] = asked.reasoning.effort
        if asked.reasoning.effort == 'none':
            said['chat_template_kwargs'] = words.thinking(False)
    return strict.checked({name: value for name, value in said.items() if value is not None}, ChatRequest)


def _format(form: Any) -> dict[str, Any] | None:
    if not isinstance(form, SchemaFormat):
        return None if form is None else form.model_dump()
    return {'type': 'json_schema', 'json_schema': form.model_dump(by_alias=True, exclude={'type'}, exclude_none=True)}


def turns(asked: ResponsesRequest) -> list[dict[str, Any]]:
    """Items as turns: what the assistant thought, said and called one after the other is one turn of it."""
    made: list[dict[str, Any]] = []
    if asked.instructions is not None:
        made.append({'role': 'system', 'content': asked.instructions})
    if isinstance(asked.input, str):
        return [*made, {'role': 'user', 'content': asked.input}]
    for item in asked.input:
        if isinstance(item, OutputItem):
            made.append({'role': 'tool', 'tool_call_id': item.call_id, 'content': _content(item.output)})
        elif isinstance(item, MessageItem) and item.role != 'assistant':
            made.append({'role': item.role, 'content': _content(item.content)})
        else:
            turn = _turn_of_assistant(made, item)
            if isinstance(item, MessageItem):
                turn['content'] = _content(item.content)
            elif isinstance(item, CallItem):
                function = {'name': item.name, 'arguments': item.arguments}
                called = {'id': item.call_id, 'type': 'function', 'function': function}
                turn['tool_calls'] = [*turn.get('tool_calls', ()), called]
            elif item.content:
                turn['reasoning_content'] = ''.join(thought.text for thought in item.content)
    return made


def _turn_of_assistant(made: list[dict[str, Any]], item: Any) -> dict[str, Any]:
    """The turn that an item of the assistant belongs to: the last one, unless that has gone past such an item."""
    last = made[-1] if made else {'role': None}
    before = {MessageItem: ('content', 'tool_calls'), ReasoningItem: ('content', 'tool_calls', 'reasoning_content')}
    if last['role'] != 'assistant' or any(name in last for name in before.get(type(item), ())):
        made.append({'role': 'assistant'})
    return made[-1]


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if isinstance(part, InputImage):
            url = {'url': part.image_url, **({'detail': part.detail} if part.detail else {})}
            parts.append({'type': 'image_url', 'image_url': url})
        elif isinstance(part, RefusalPart):
            parts.append(part.model_dump())
        else:
            parts.append({'type': 'text', 'text': part.text})
    return parts


# ---------------------------------------------------------------------------------------------------------- response
class _Response:
    """A response while it is made, and the events that tell of it."""

    def __init__(self, asked: ResponsesRequest, plan: Plan, call: Call):
        self.parts = Parts()
        self._asked, self._call = asked, call
        self._sampling = plan.requests[0].sampling
        self._own = uuid.uuid4().hex
        self._created = int(time.time())
        self._numbers = itertools.count()

    async def events(self, said: AsyncGenerator[Said, None]) -> AsyncGenerator[dict[str, Any], None]:
        """The response as it grows. Raises ApiError before the first event; after it the response has failed."""
        begun = False
        async with events.whole(said):
            try:
                async for each in said:
                    if not begun:
                        begun = True
                        yield self._event('created', response=self.whole('in_progress'))
                        yield self._event('in_progress', response=self.whole('in_progress'))
                    for step in self.parts.take(each):
                        for event in self._told(step):
                            yield event
            except ApiError as error:
                if not begun:
                    raise
                self._call.code = error.code
                yield self._event('failed', response=self.whole('failed', error))
                return
        whole = self.whole()
        yield self._event(whole['status'], response=whole)

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        return {'type': f'response.{kind}', 'sequence_number': next(self._numbers), **more}

    def _told(self, step: Step) -> Iterator[dict[str, Any]]:
        """A step of a part as events: of its item, of the content that items other than calls have, and of its text."""
        part = step.part
        whole = {'output_index': part.place}
        inner = {**whole, 'item_id': self._id(part)}
        if part.kind == 'call':
            name, said = 'function_call_arguments', {'name': part.name, 'arguments': part.text}
        else:
            name, said = TEXTS[part.kind], {'text': part.text}
            inner['content_index'] = 0
        more = {'logprobs': []} if part.kind == 'content' else {}
        if step.what == 'begin':
            yield self._event('output_item.added', **whole, item=self._item(part, 'in_progress'))
            if part.kind != 'call':
                yield self._event('content_part.added', **inner, part=self._text(part))
        elif step.what == 'more':
            yield self._event(f'{name}.delta', **inner, delta=step.text, **more)
        else:
            yield self._event(f'{name}.done', **inner, **said, **more)
            if part.kind != 'call':
                yield self._event('content_part.done', **inner, part=self._text(part))
            yield self._event('output_item.done', **whole, item=self._item(part, self._status))

    # ------------------------------------------------------------------------------------------------------- values
    @property
    def _status(self) -> str:
        return 'incomplete' if self.parts.finish in CUT else 'completed'

    def whole(self, status: str | None = None, error: ApiError | None = None) -> dict[str, Any]:
        """The response as it stands."""
        asked, status = self._asked, status or self._status
        reason = CUT.get(self.parts.finish or '') if status == 'incomplete' else None
        last = status if status in ('completed', 'in_progress') else 'incomplete'
        output = [self._item(part, 'completed') for part in self.parts.all[:-1]]
        output += [self._item(part, last) for part in self.parts.all[-1:]]
        return {
            **asked.model_dump(include={'instructions', 'max_output_tokens', 'user'}),
            'id': f'resp_{self._own}',
            'object': 'response',
            'created_at': self._created,
            'completed_at': int(time.time()) if status == 'completed' else None,
            'status': status,
            'model': self._call.model,
            'output': output,
            'error': error and {'code': 'server_error', 'message': error.message},
            'incomplete_details': reason and {'reason': reason},
            'metadata': asked.metadata or {},
            'tools': [tool.model_dump(exclude_none=True) for tool in asked.tools or ()],
            'tool_choice': _dumped(asked.tool_choice) or 'auto',
            'parallel_tool_calls': asked.parallel_tool_calls is not False,
            'temperature': self._sampling.temperature,
            'top_p': self._sampling.top_p,
            'text': _text_config(asked),
            'reasoning': {'effort': asked.reasoning and asked.reasoning.effort, 'summary': None},
            'background': False,
            'store': False,
            'previous_response_id': None,
            'truncation': 'disabled',
            'usage': None if status == 'in_progress' else self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        read, written = self._call.prompt_tokens, self._call.answer_tokens
        return {
            'input_tokens': read,
            'input_tokens_details': {'cached_tokens': 0, 'cache_write_tokens': 0},
            'output_tokens': written,
            'output_tokens_details': {'reasoning_tokens': self.parts.thinking_tokens},
            'total_tokens': read + written,
        }

    def _id(self, part: Part) -> str:
        return f'{SHORT[part.kind]}_{self._own}{part.place:02x}'

    def _item(self, part: Part, status: str) -> dict[str, Any]:
        """A part as an item."""
        own = {'id': self._id(part), 'status': status}
        if part.kind == 'call':
            called = {'call_id': part.id, 'name': part.name, 'arguments': part.text}
            return {'type': 'function_call', **own, **called}
        content = [self._text(part)] if part.text else []
        if part.kind == 'reasoning':
            return {'type': 'reasoning', **own, 'summary': [], 'content': content}
        return {'type': 'message', **own, 'role': 'assistant', 'content': content}

    def _text(self, part: Part) -> dict[str, Any]:
        extra = {'annotations': [], 'logprobs': []} if part.kind == 'content' else {}
        return {'type': TEXTS[part.kind], 'text': part.text, **extra}


def _dumped(choice: FunctionChoice | str | None) -> Any:
    return choice.model_dump() if isinstance(choice, FunctionChoice) else choice


def _text_config(asked: ResponsesRequest) -> dict[str, Any]:
    form = asked.text and asked.text.format
    shown = {'type': 'text'} if form is None else form.model_dump(by_alias=True, exclude_none=True)
    return {'format': shown, **({'verbosity': asked.text.verbosity} if asked.text and asked.text.verbosity else {})}
