"""From the words of the API to those of the engine: what chat and plain completions share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from swift.core.types import Request
from swift.engines.protocol import RequestConfig
from swift.serve.bounds import SEED
from swift.serve.errors import invalid
from swift.serve.house import House, Usual
from swift.serve.moderation import passes
from swift.serve.schema import GRAMMARS, Generation

SAME = ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')
GUIDED = {'guided_json': 'json', 'guided_regex': 'regex', 'guided_choice': 'choice', 'guided_grammar': 'grammar'}


def config(asked: Generation, usual: Usual, *, max_tokens: int | None, logprobs: int | None) -> RequestConfig:
    """How to answer.

    Args:
        max_tokens: of the answer; None for as many as fit.
        logprobs: of the likeliest tokens beside the chosen one; None for none at all.
    """
    stop = [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or ())
    return RequestConfig(
        **{name: getattr(asked, name) for name in SAME},
        max_tokens=max_tokens,
        min_tokens=asked.min_tokens or 0,
        logit_bias={int(id): value for id, value in (asked.logit_bias or {}).items()},
        stop=[*stop, *usual.stop],
        seed=None if asked.seed is None else asked.seed & SEED,
        n=asked.n or 1,
        presence_penalty=_first(asked.presence_penalty, usual.presence_penalty),
        frequency_penalty=_first(asked.frequency_penalty, usual.frequency_penalty),
        logprobs=logprobs is not None,
        top_logprobs=logprobs,
        ignore_eos=bool(asked.ignore_eos),
        response_format=None
        if asked.response_format is None
        else asked.response_format.model_dump(by_alias=True, exclude_none=True),
        structured_outputs=_structured(asked),
        structured_outputs_regex=_regex(asked, usual),
    )


def _first(given: float | None, usual: float) -> float:
    return usual if given is None else given


def _regex(asked: Generation, usual: Usual) -> str | None:
    """What the request wants, or what is usual where it asks for no form and may not end in a call."""
    formed = any(getattr(asked, name) is not None for name in GRAMMARS)
    return asked.structured_outputs_regex if formed or getattr(asked, 'tools', None) else usual.regex


def _structured(asked: Generation) -> dict[str, Any] | None:
    """vLLM's older names are words for the newer one."""
    if asked.structured_outputs is not None:
        return asked.structured_outputs.model_dump(by_alias=True, exclude_none=True)
    return next(({new: getattr(asked, old)} for old, new in GUIDED.items() if getattr(asked, old) is not None), None)


def finished(request: Request, asked: Generation, house: House, param: str) -> Request:
    """The request with what the chat layer does not know. Raises ApiError when it is too long."""
    longest = house.chat.max_model_len - 1
    if len(request.prompt_ids) > longest:
        raise invalid(
            f'{param}: {len(request.prompt_ids)} tokens; with room for one token of answer the model takes {longest}',
            param,
            code='context_length_exceeded',
        )
    if not asked.stop_token_ids:
        return request
    stop_ids = (*request.sampling.stop_ids, *asked.stop_token_ids)
    return replace(request, sampling=replace(request.sampling, stop_ids=stop_ids))


def thinking(on: bool) -> dict[str, bool]:
    """Variables by which chat templates that ask are told whether to think."""
    return {'enable_thinking': on, 'thinking': on}


def check_logprobs(count: int | None, house: House, param: str) -> None:
    """Raises ApiError when more log-probabilities are asked for than the server gives."""
    if count is not None and count > house.max_logprobs:
        raise invalid(f'{param}: this server gives at most {house.max_logprobs}', param)


def judge(texts: Iterable[str], house: House, param: str) -> None:
    """Raises ApiError when what is asked breaks a rule."""
    if house.rules and not all(passes(text, house.rules) for text in texts):
        house.seen.broken.add('input')
        raise invalid('the request holds words that are not allowed here', param, code='content_filter')


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Counts of tokens."""
    return {'prompt_tokens': prompt, 'completion_tokens': answer, 'total_tokens': prompt + answer}


def opening(kind: str, object: str, model: str) -> dict[str, Any]:
    """How every response and every chunk begins."""
    return {'id': f'{kind}-{uuid.uuid4().hex}', 'object': object, 'created': int(time.time()), 'model': model}


def wants_usage(asked: Generation) -> bool:
    """Whether a last chunk counts the tokens."""
    return bool(asked.stream_options and asked.stream_options.include_usage)
