"""``POST /v1/completions``: texts, or tokens, continued as they stand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from swift.core.errors import SwiftError
from swift.core.types import TokenLogprob
from swift.serve import events, generate, words
from swift.serve.call import Call
from swift.serve.errors import from_engine, invalid
from swift.serve.generate import Plan, Said
from swift.serve.house import House
from swift.serve.schema import CompletionRequest

USUAL_TOKENS = 16  # OpenAI's own default


async def answer(asked: CompletionRequest, house: House, call: Call) -> Response:
    """Continue prompts: whole, or as events."""
    adapter = house.adapter(asked.model)
    call.model = asked.model or house.name
    words.check_logprobs(asked.logprobs, house, 'logprobs')
    await house.admit(call)
    plan = await house.work(prepare, asked, house, adapter)
    said = generate.answers(house, call, plan)
    if asked.stream:
        return await events.begun(_chunks(said, asked, house, call), call)
    return JSONResponse(await _whole(said, asked, house, call, plan))


def prepare(asked: CompletionRequest, house: House, adapter: str | None) -> Plan:
    """Judge and tokenise; runs in a thread. Raises ApiError."""
    prompts = _prompts(asked.prompt)
    words.judge((prompt for prompt in prompts if isinstance(prompt, str)), house, 'prompt')
    if len(prompts) * (asked.n or 1) > house.bounds.queue:
        raise invalid(f'prompt: at most {house.bounds.queue} answers at once', 'prompt')
    config = words.config(
        asked,
        house.usual,
        max_tokens=asked.max_tokens or house.usual.max_tokens or USUAL_TOKENS,
        logprobs=asked.logprobs,
    )
    requests = []
    for prompt in prompts:
        ids = house.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise invalid('prompt: it is empty', 'prompt')
        try:
            request = house.chat.plain(ids, config, adapter=adapter or '')
        except SwiftError as error:
            raise from_engine(error) from error
        requests.append(words.finished(request, asked, house, 'prompt'))
    return Plan(requests)


def _prompts(prompt: Any) -> list[Any]:
    """Several prompts, each a text or a list of tokens."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return prompt


async def _chunks(
    said: AsyncGenerator[Said, None], asked: CompletionRequest, house: House, call: Call
) -> AsyncGenerator[dict[str, Any], None]:
    opening = words.opening('cmpl', 'text_completion', call.model or '')
    extra = {'usage': None} if words.wants_usage(asked) else {}
    lengths: dict[int, int] = {}
    async with events.whole(said):
        async for each in said:
            text = _text(each)
            offset = lengths.get(each.index, 0)
            lengths[each.index] = offset + len(text)
            if text or each.finish or each.logprobs:
                logprobs = _logprobs(each.logprobs, asked.logprobs, house, offset)
                choice = {'index': each.index, 'text': text, 'logprobs': logprobs, 'finish_reason': each.finish}
                yield {**opening, 'choices': [choice], **extra}
    if words.wants_usage(asked):
        yield {**opening, 'choices': [], 'usage': words.usage(call.prompt_tokens, call.answer_tokens)}


async def _whole(
    said: AsyncGenerator[Said, None], asked: CompletionRequest, house: House, call: Call, plan: Plan
) -> dict[str, Any]:
    count = plan.choices
    texts, logprobs, finish = [''] * count, [()] * count, [None] * count
    ids: list[tuple[int, ...]] = [()] * count
    async with events.whole(said):
        async for each in said:
            texts[each.index] += _text(each)
            logprobs[each.index] += each.logprobs
            ids[each.index] += each.ids
            finish[each.index] = each.finish or finish[each.index]
    choices = [
        {
            'index': i,
            'text': texts[i],
            'logprobs': _logprobs(logprobs[i], asked.logprobs, house, 0),
            'finish_reason': finish[i],
            **({'token_ids': list(ids[i])} if asked.return_details else {}),
        }
        for i in range(count)
    ]
    call.detail |= {'answer': texts} if house.verbose else {}
    return {
        **words.opening('cmpl', 'text_completion', call.model or ''),
        'choices': choices,
        'usage': words.usage(call.prompt_tokens, call.answer_tokens),
    }


def _text(said: Said) -> str:
    return ''.join(delta.text for delta in said.deltas)


def _logprobs(logprobs: Sequence[TokenLogprob], asked: int | None, house: House, offset: int) -> dict[str, Any] | None:
    """The older form of log-probabilities: four lists of the same length."""
    if asked is None or not logprobs:
        return None
    decode = house.chat.template.decode
    tokens = [decode([each.id]) for each in logprobs]
    offsets = list(itertools.accumulate(map(len, tokens[:-1]), initial=offset))
    top = [{decode([id]): logprob for id, logprob in each.top} for each in logprobs]
    return {
        'tokens': tokens,
        'token_logprobs': [each.logprob for each in logprobs],
        'top_logprobs': top if asked else None,
        'text_offset': offsets,
    }
