"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response

from swift.core.errors import SwiftError
from swift.core.types import Request
from swift.engines import chat as words_of_engine
from swift.engines.protocol import InferRequest
from swift.serve import events, generate, pictures, words
from swift.serve.call import Call
from swift.serve.errors import from_engine, invalid
from swift.serve.generate import Plan, Said
from swift.serve.house import House
from swift.serve.schema import Assistant, ChatRequest, NamedTool, RefusalPart
from swift.templates.answers import Answer, Delta, parser
from swift.templates.calls_forcing import forced

T = TypeVar('T')
RESERVED = (
    'messages',
    'tools',
    'pictures',
    'chat_template',
    'add_generation_prompt',
    'continue_final_message',
    'tokenize',
)


async def answer(asked: ChatRequest, house: House, call: Call) -> Response:
    """Continue a conversation: whole, or as events."""
    words.check_logprobs(asked.top_logprobs, house, 'top_logprobs')
    plan = await admitted(prepare, asked.model, lambda: asked, house, call)
    said = generate.answers(house, call, plan)
    if asked.stream:
        return await events.begun(_chunks(said, asked, house, call), call)
    return JSONResponse(await _whole(said, asked, house, call, plan))


# ----------------------------------------------------------------------------------------------------------- request
async def admitted(
    make: Callable[[ChatRequest, House, str | None], T],
    model: str | None,
    asked: Callable[[], ChatRequest],
    house: House,
    call: Call,
) -> T:
    """Let a request in, and make of it, in a thread, what ``make`` does. ``asked`` puts it into the words of this API.

    Raises:
        ApiError: it is wrong, or too much.
    """
    adapter = house.adapter(model)
    call.model = model or house.name
    await house.admit(call)
    return await house.work(lambda: make(asked(), house, adapter))


def prepare(asked: ChatRequest, house: House, adapter: str | None) -> Plan:
    """Judge, render and tokenise. Raises ApiError."""
    request, tools = rendered(asked, house, adapter)
    request = words.finished(request, asked, house, 'messages')
    read = {'tools': tools, 'prompt_ids': request.prompt_ids, 'prefix': house.chat.prefix}
    parsers = [parser(house.chat.template, **read) for _ in range(request.sampling.n)]
    return Plan([request], parsers, one_call=asked.parallel_tool_calls is False, prefix=house.chat.prefix)


def rendered(asked: ChatRequest, house: House, adapter: str | None) -> tuple[Request, list[dict[str, Any]]]:
    """The request for the engine, however long, and the tools that it shows. Raises ApiError."""
    tools = [tool.model_dump(exclude_none=True) for tool in asked.tools or ()]
    if asked.tool_choice == 'none':
        tools = []
    messages = pictures.taken([_message(turn) for turn in asked.messages], house)
    words.judge(_texts(messages), house, 'messages')
    config = words.config(
        asked,
        house.usual,
        max_tokens=asked.max_completion_tokens or asked.max_tokens or house.usual.max_tokens,
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
    )
    rows = InferRequest(messages, tools=tools or None, chat_template_kwargs=_variables(asked))
    try:
        request = house.chat.request(rows, config, adapter=adapter or '')
        return _forced(request, asked, tools, house), tools
    except SwiftError as error:
        raise from_engine(error) from error


def _message(turn: Any) -> dict[str, Any]:
    """A turn in the form that rows of data have."""
    said = turn.model_dump(exclude_none=True)
    if isinstance(turn, Assistant):
        said.pop('refusal', None)
        if turn.content is None and not turn.tool_calls:
            said['content'] = turn.refusal or ''
    if isinstance(turn.content, list):
        said['content'] = [
            {'type': 'text', 'text': part.refusal} if isinstance(part, RefusalPart) else part.model_dump()
            for part in turn.content
        ]
    return said


def _texts(messages: list[dict[str, Any]]) -> list[str]:
    """What people and tools said."""
    found = []
    for message in messages:
        content = message.get('content')
        parts = [content] if isinstance(content, str) else [part.get('text') for part in content or ()]
        found += [part for part in parts if isinstance(part, str)]
    return found


def _variables(asked: ChatRequest) -> dict[str, Any]:
    """Variables of the chat template. Raises ApiError for those that are the server's."""
    given = dict(asked.chat_template_kwargs or {})
    for name in given:
        if name in RESERVED or not name.isidentifier():
            raise invalid(f'chat_template_kwargs: {name!r} cannot be set by a request', 'chat_template_kwargs')
    if asked.reasoning_effort is not None:
        given.setdefault('reasoning_effort', asked.reasoning_effort)
    return given


def _forced(request: Request, asked: ChatRequest, tools: list[dict[str, Any]], house: House) -> Request:
    """The request with the grammar of calls, where one must be made or be strict. Raises ApiError and RequestError."""
    choice, formed = asked.tool_choice, request.sampling.grammar is not None
    if formed and choice in (None, 'auto'):
        return request  # its form leaves no room for a call
    grammar = forced(
        house.chat.template,
        tools,
        choice.model_dump() if isinstance(choice, NamedTool) else choice,
        parallel=asked.parallel_tool_calls is not False,
        prompt_ids=request.prompt_ids,
        angled=house.chat.angled,
    )
    if grammar is None:
        return request
    if formed:
        raise invalid('tool_choice: an answer cannot be a call and follow a format at once', 'tool_choice')
    return replace(request, sampling=replace(request.sampling, grammar=grammar))


# ---------------------------------------------------------------------------------------------------------- response
async def _chunks(
    said: AsyncGenerator[Said, None], asked: ChatRequest, house: House, call: Call
) -> AsyncGenerator[dict[str, Any], None]:
    """Chunks as clients of the API expect them: the role first, then what is new, then why it ended."""
    opening = words.opening('chatcmpl', 'chat.completion.chunk', call.model or '')
    extra = {'usage': None} if words.wants_usage(asked) else {}
    begun: set[int] = set()
    async with events.whole(said):
        async for each in said:
            if each.index not in begun:
                begun.add(each.index)
                role = {'role': 'assistant', 'content': ''}
                yield {**opening, 'choices': [_choice(each.index, role, None, None)], **extra}
            logprobs = words_of_engine.openai_logprobs(each.logprobs, house.chat.template.decode)
            deltas = [_delta(delta) for delta in each.deltas]
            if logprobs and not deltas:
                deltas = [{'content': ''}]
            for delta in deltas:
                yield {**opening, 'choices': [_choice(each.index, delta, logprobs, None)], **extra}
                logprobs = None
            if each.finish:
                yield {**opening, 'choices': [_choice(each.index, {}, None, each.finish)], **extra}
    if words.wants_usage(asked):
        yield {**opening, 'choices': [], 'usage': words.usage(call.prompt_tokens, call.answer_tokens)}


def _choice(index: int, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {'index': index, 'delta': delta, 'logprobs': logprobs, 'finish_reason': finish}


def _delta(delta: Delta) -> dict[str, Any]:
    """A delta of an answer as one of the API."""
    if delta.kind == 'content':
        return {'content': delta.text}
    if delta.kind == 'reasoning':
        return {'reasoning_content': delta.text}
    function = {'arguments': delta.text} if delta.name is None else {'name': delta.name, 'arguments': delta.text}
    first = {} if delta.id is None else {'id': delta.id, 'type': 'function'}
    return {'tool_calls': [{'index': delta.index, **first, 'function': function}]}


class _Collected:
    """One choice, put together."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.deltas: list[Delta] = []
        self.ids: list[int] = []
        self.logprobs: list[Any] = []

    def add(self, said: Said) -> None:
        """Take what is new."""
        self.ids += said.ids
        self.logprobs += said.logprobs
        self.finish = said.finish or self.finish
        self.deltas += said.deltas

    def message(self) -> dict[str, Any]:
        """The message that clients get."""
        answer = Answer.of(self.deltas)
        found: dict[str, Any] = {'role': 'assistant', 'content': answer.content, 'refusal': None}
        if answer.reasoning:
            found['reasoning_content'] = answer.reasoning
        if answer.calls:
            found['content'] = answer.content or None
            found['tool_calls'] = [
                {'id': each.id, 'type': 'function', 'function': {'name': each.name, 'arguments': each.arguments}}
                for each in answer.calls
            ]
        return found


async def _whole(
    said: AsyncGenerator[Said, None], asked: ChatRequest, house: House, call: Call, plan: Plan
) -> dict[str, Any]:
    choices = [_Collected() for _ in range(plan.choices)]
    async with events.whole(said):
        async for each in said:
            choices[each.index].add(each)
    found = []
    for i, choice in enumerate(choices):
        logprobs = words_of_engine.openai_logprobs(choice.logprobs, house.chat.template.decode)
        more = {'token_ids': choice.ids} if asked.return_details else {}
        found.append(
            {'index': i, 'message': choice.message(), 'logprobs': logprobs, 'finish_reason': choice.finish, **more}
        )
    call.detail |= {'answer': [each['message'] for each in found]} if house.verbose else {}
    more = {'prompt_token_ids': list(plan.requests[0].prompt_ids)} if asked.return_details else {}
    return {
        **words.opening('chatcmpl', 'chat.completion', call.model or ''),
        'choices': found,
        'usage': words.usage(call.prompt_tokens, call.answer_tokens),
        'system_fingerprint': None,
        **more,
    }
