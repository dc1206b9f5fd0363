"""``POST /v1/completions``: texts, or tokens, continued as they stand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import JSONResponse, Response

from swift.core.errors import SwiftError
from swift.core.types import Request, TokenLogprob
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
    words.check_logprobs(asked.prompt_logprobs, house, 'prompt_logprobs')
    if asked.prompt_logprobs is not None and asked.stream:
        raise invalid('prompt_logprobs: not in a stream', 'prompt_logprobs')
    await house.admit(call)
    plan = await house.work(prepare, asked, house, adapter)
    said = generate.answers(house, call, plan)
    if asked.stream:
        return await events.begun(_chunks(said, asked, house, call, plan), call)
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
        about_prompt = _first(asked.prompt_logprobs, asked.logprobs if asked.echo else None)
        request = replace(request, sampling=replace(request.sampling, prompt_logprobs=about_prompt))
        requests.append(words.finished(request, asked, house, 'prompt'))
    return Plan(requests)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _prompts(prompt: Any) -> list[Any]:
    """Several prompts, each a text or a list of tokens."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return prompt


# ---------------------------------------------------------------------------------------------------------- response
@dataclass
class _Echo:
    """What a choice begins with where the prompt is to be said again: its text, and how likely each token of it was."""

    text: str = ''
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob | None, ...] = ()

    @classmethod
    def of(cls, request: Request, about: Sequence[TokenLogprob], house: House) -> _Echo:
        """Of a prompt; nothing predicts its first token."""
        ids = request.prompt_ids
        return cls(house.chat.template.decode(ids), ids, (None, *about) if about else ())


async def _chunks(
    said: AsyncGenerator[Said, None], asked: CompletionRequest, house: House, call: Call, plan: Plan
) -> AsyncGenerator[dict[str, Any], None]:
    opening = words.opening('cmpl', 'text_completion', call.model or '')
    extra = {'usage': None} if words.wants_usage(asked) else {}
    lengths: dict[int, int] = {}
    about: dict[int, tuple[TokenLogprob, ...]] = {}  # by prompt: they come with its first choice
    async with events.whole(said):
        async for each in said:
            prompt = each.index // plan.n
            about[prompt] = about.get(prompt) or each.prompt_logprobs
            begins = asked.echo and each.index not in lengths
            echo = _Echo.of(plan.requests[prompt], about[prompt], house) if begins else _Echo()
            text, offset = echo.text + _text(each), lengths.get(each.index, 0)
            lengths[each.index] = offset + len(text)
            if text or each.finish or each.logprobs:
                logprobs = _logprobs(echo, each.logprobs, asked.logprobs, house, offset)
                choice = {'index': each.index, 'text': text, 'logprobs': logprobs, 'finish_reason': each.finish}
                yield {**opening, 'choices': [choice], **extra}
    if words.wants_usage(asked):
        yield {**opening, 'choices': [], 'usage': words.usage(call.prompt_tokens, call.answer_tokens)}


@dataclass
class _Collected:
    """One choice, put together."""

    text: str = ''
    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    about: tuple[TokenLogprob, ...] = ()
    finish: str | None = None

    def add(self, said: Said) -> None:
        """Take what is new."""
        self.text += _text(said)
        self.ids += said.ids
        self.logprobs += said.logprobs
        self.about += said.prompt_logprobs
        self.finish = said.finish or self.finish


async def _whole(
    said: AsyncGenerator[Said, None], asked: CompletionRequest, house: House, call: Call, plan: Plan
) -> dict[str, Any]:
    found = [_Collected() for _ in range(plan.choices)]
    async with events.whole(said):
        async for each in said:
            found[each.index].add(each)
    choices = []
    for i, choice in enumerate(found):
        request, about = plan.requests[i // plan.n], found[i - i % plan.n].about
        echo = _Echo.of(request, about, house) if asked.echo else _Echo()
        made = {
            'index': i,
            'text': echo.text + choice.text,
            'logprobs': _logprobs(echo, choice.logprobs, asked.logprobs, house, 0),
            'finish_reason': choice.finish,
        }
        if asked.prompt_logprobs is not None:
            made['prompt_logprobs'] = _of_prompt(about, house)
        if asked.return_details:
            made |= {'token_ids': list(choice.ids), 'prompt_token_ids': list(request.prompt_ids)}
        choices.append(made)
    call.detail |= {'answer': [choice.text for choice in found]} if house.verbose else {}
    return {
        **words.opening('cmpl', 'text_completion', call.model or ''),
        'choices': choices,
        'usage': words.usage(call.prompt_tokens, call.answer_tokens),
    }


def _of_prompt(about: Sequence[TokenLogprob], house: House) -> list[Any]:
    """vLLM's form: for each token of the prompt after its first, ids with how likely they were."""
    decode = house.chat.template.decode
    rows: list[Any] = [None]
    for each in about:
        known = dict([(each.id, each.logprob), *each.top])
        ranked = {id: rank for rank, (id, _) in enumerate(each.top, 1)}
        rows.append(
            {
                str(id): {'logprob': logprob, 'rank': ranked.get(id), 'decoded_token': decode([id])}
                for id, logprob in known.items()
            }
        )
    return rows


def _text(said: Said) -> str:
    return ''.join(delta.text for delta in said.deltas)


def _logprobs(
    echo: _Echo, logprobs: Sequence[TokenLogprob], asked: int | None, house: House, offset: int
) -> dict[str, Any] | None:
    """The older form of log-probabilities: four lists of the same length, those of the prompt first."""
    known = (*echo.logprobs, *logprobs)
    if asked is None or not known:
        return None
    decode = house.chat.template.decode
    ids = (*(echo.tokens if echo.logprobs else ()), *(each.id for each in logprobs))
    tokens = [decode([id]) for id in ids]
    top = [None if each is None else {decode([id]): logprob for id, logprob in each.top} for each in known]
    return {
        'tokens': tokens,
        'token_logprobs': [None if each is None else each.logprob for each in known],
        'top_logprobs': top if asked else None,
        'text_offset': list(itertools.accumulate(map(len, tokens[:-1]), initial=offset)),
    }
