"""How each server says a request and its answer in tokens: one row a server.

``body`` turns a Request into JSON; ``read`` turns an event of the answer into what came for each choice. vLLM takes
and gives token ids at ``/v1/completions``, SGLang and LMDeploy at ``/generate``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swift.core.errors import RequestError, SwiftError
from swift.core.types import Grammar, Request, TokenLogprob

Json = dict[str, Any]
CHOSEN = 'token_id:'  # how vLLM names tokens where it is asked for ids


@dataclass(frozen=True, slots=True)
class Delta:
    """What came for choice ``index``: new tokens, and why it ended if it did."""

    index: int
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of a kind of server.

    ``read`` is given the tokens that each choice has already. ``lacks``: fields of Sampling that it cannot be asked
    for, with the values that ask for nothing. ``many``: one request may have several choices. ``adapters``: the paths
    that load and unload one, () where that is not possible while it runs.
    """

    name: str
    path: str
    body: Callable[[Request, str], Json]
    read: Callable[[Json, Request, Mapping[int, int]], Iterator[Delta]]
    lacks: Mapping[str, tuple[Any, ...]]
    many: bool = True
    adapters: tuple[str, ...] = ()

    def check(self, request: Request) -> None:
        """Refuse what this server would ignore. Raises RequestError."""
        if request.pictures:
            raise RequestError(
                f'{self.name} is spoken to in tokens here, and takes pictures only with text: '
                '--infer_backend native answers them',
                param='messages',
            )
        for name, nothing in {'num_beams': (1,), **self.lacks}.items():
            if (value := getattr(request.sampling, name)) not in nothing:
                raise RequestError(f'{name} {value!r}: {self.name} cannot do it; the native engine can', param=name)


# ------------------------------------------------------------------------------------------------------------- vLLM
def _vllm_body(request: Request, model: str) -> Json:
    sampling = request.sampling
    body = {
        'model': request.adapter or model,
        'prompt': list(request.prompt_ids),
        'request_id': request.id,
        # its server has log-probabilities of the prompt only with a whole answer
        'stream': sampling.prompt_logprobs is None,
        'return_token_ids': True,
        'return_tokens_as_token_ids': True,
        'ignore_eos': True,  # stop_token_ids has every end token
        'max_tokens': sampling.max_tokens,
        'stop_token_ids': list(sampling.stop_ids),
        **{name: getattr(sampling, name) for name in SAME_WORDS},
        'stop': list(sampling.stop),
    }
    if sampling.temperature == 0:
        body['n'] = 1  # greedy choices are all the same, and its server takes no more than one
    optional = {'seed': sampling.seed, 'logprobs': sampling.logprobs, 'prompt_logprobs': sampling.prompt_logprobs}
    body |= {name: value for name, value in optional.items() if value is not None}
    if sampling.min_tokens:
        body['min_tokens'] = sampling.min_tokens
    if sampling.logit_bias:
        body['logit_bias'] = dict(sampling.logit_bias)
    if sampling.grammar is not None:
        body['structured_outputs'] = _vllm_grammar(sampling.grammar)
    return body


SAME_WORDS = (
    'n', 'temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty', 'presence_penalty', 'frequency_penalty',
)  # fmt: skip


def _vllm_grammar(grammar: Grammar) -> Json:
    if grammar.kind == 'choice':
        return {'choice': json.loads(grammar.text)}
    return {{'json': 'json', 'regex': 'regex', 'lark': 'grammar'}[grammar.kind]: grammar.text}


def _vllm_read(event: Json, request: Request, seen: Mapping[int, int]) -> Iterator[Delta]:
    for choice in event['choices']:
        if choice.get('token_ids') is None:
            raise SwiftError('the server gives no token ids (return_token_ids): vLLM 0.10.2 or newer does')
        ids = tuple(choice['token_ids'])
        prompt = choice.get('prompt_logprobs') if choice['index'] == 0 else None
        delta = Delta(
            choice['index'],
            ids,
            _vllm_logprobs(ids, choice.get('logprobs'), request.sampling.logprobs),
            choice.get('finish_reason'),
            _vllm_prompt(prompt, request),
        )
        yield delta
        if request.sampling.temperature == 0:
            yield from (replace(delta, index=i, prompt_logprobs=()) for i in range(1, request.sampling.n))


def _vllm_logprobs(ids: Sequence[int], found: Json | None, top: int | None) -> tuple[TokenLogprob, ...]:
    if not found or top is None:
        return ()
    likeliest = found['top_logprobs'] or [{}] * len(ids)
    return tuple(
        TokenLogprob(id, logprob, _top({int(name.removeprefix(CHOSEN)): p for name, p in (row or {}).items()}, top))
        for id, logprob, row in zip(ids, found['token_logprobs'], likeliest, strict=True)
    )


def _vllm_prompt(found: list[Json | None] | None, request: Request) -> tuple[TokenLogprob, ...]:
    if not found:
        return ()
    rows = []
    for id, row in zip(request.prompt_ids[1:], found[1:], strict=True):
        known = {int(each): facts['logprob'] for each, facts in (row or {}).items()}
        rows.append(TokenLogprob(id, known[id], _top(known, request.sampling.prompt_logprobs or 0)))
    return tuple(rows)


def _top(known: Mapping[int, float], count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest of the known tokens: servers add the chosen one where it is not among them."""
    return tuple(sorted(known.items(), key=lambda pair: -pair[1])[:count])


# ----------------------------------------------------------------------------------------------------------- SGLang
def _sglang_body(request: Request, model: str) -> Json:
    sampling = request.sampling
    how: Json = {
        'max_new_tokens': sampling.max_tokens,
        'stop': list(sampling.stop),
        'stop_token_ids': list(sampling.stop_ids),
        'ignore_eos': True,
        **{name: getattr(sampling, name) for name in SAME_WORDS},
        'top_k': sampling.top_k or -1,
    }
    if sampling.seed is not None:
        how['sampling_seed'] = sampling.seed
    if sampling.min_tokens:
        how['min_new_tokens'] = sampling.min_tokens
    if sampling.logit_bias:
        how['logit_bias'] = dict(sampling.logit_bias)
    if sampling.grammar is not None:
        how |= _sglang_grammar(sampling.grammar)
    body: Json = {'rid': request.id, 'input_ids': list(request.prompt_ids), 'sampling_params': how, 'stream': True}
    if request.adapter is not None:
        body['lora_path'] = request.adapter
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        body |= {'return_logprob': True, 'top_logprobs_num': max(sampling.logprobs or 0, sampling.prompt_logprobs or 0)}
    if sampling.prompt_logprobs is not None:
        body['logprob_start_len'] = 0
    return body


def _sglang_grammar(grammar: Grammar) -> Json:
    if grammar.kind == 'choice':
        return {'regex': '|'.join(f'({re.escape(each)})' for each in json.loads(grammar.text))}
    if grammar.kind == 'lark':
        raise RequestError('a Lark grammar: SGLang cannot read it; the native engine can', param='grammar')
    return {{'json': 'json_schema', 'regex': 'regex'}[grammar.kind]: grammar.text}


def _sglang_read(event: Json, request: Request, seen: Mapping[int, int]) -> Iterator[Delta]:
    """Events carry all tokens up to now, or the new ones only, by a flag of the server: the count tells which."""
    index, facts, sampling = event.get('index', 0), event['meta_info'], request.sampling
    new = facts['completion_tokens'] - seen[index]
    last = lambda rows: rows[len(rows) - new :] if new else []
    chosen, top = last(facts.get('output_token_logprobs') or []), last(facts.get('output_top_logprobs') or [])
    logprobs = _sglang_logprobs(chosen, top, sampling.logprobs) if sampling.logprobs is not None else ()
    before: tuple[TokenLogprob, ...] = ()
    if index == 0 and not seen[0] and sampling.prompt_logprobs is not None:
        rows, tops = facts.get('input_token_logprobs') or [], facts.get('input_top_logprobs') or []
        before = _sglang_logprobs(rows[1:], tops[1:], sampling.prompt_logprobs)
    finish = (facts.get('finish_reason') or {}).get('type')
    yield Delta(index, tuple(last(event['output_ids'])), logprobs, finish, before)


def _sglang_logprobs(chosen: list[list], top: list[Any], count: int) -> tuple[TokenLogprob, ...]:
    """Rows are [logprob, id, text]."""
    tops = top or [()] * len(chosen)
    return tuple(
        TokenLogprob(row[1], row[0], _top({each[1]: each[0] for each in others or ()}, count))
        for row, others in zip(chosen, tops, strict=True)
    )


# --------------------------------------------------------------------------------------------------------- LMDeploy
def _lmdeploy_body(request: Request, model: str) -> Json:
    sampling = request.sampling
    return {
        'input_ids': list(request.prompt_ids),
        'stream': True,
        'max_tokens': sampling.max_tokens,
        'stop': list(sampling.stop) or None,
        'stop_token_ids': list(sampling.stop_ids),
        'ignore_eos': True,
        'return_logprob': sampling.logprobs is not None,
        **{name: getattr(sampling, name) for name in ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')},
    }


def _lmdeploy_read(event: Json, request: Request, seen: Mapping[int, int]) -> Iterator[Delta]:
    facts = event['meta_info']
    logprobs = tuple(TokenLogprob(id, logprob) for logprob, id in facts.get('output_token_logprobs') or ())
    yield Delta(0, tuple(event['output_ids'] or ()), logprobs, (facts.get('finish_reason') or {}).get('type'))


NOTHING = {
    'presence_penalty': (0.0,), 'frequency_penalty': (0.0,), 'min_tokens': (0,), 'logit_bias': ((),),
    'prompt_logprobs': (None,), 'grammar': (None,),
}  # fmt: skip
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            'vLLM', '/v1/completions', _vllm_body, _vllm_read, {},
            adapters=('/v1/load_lora_adapter', '/v1/unload_lora_adapter'),
        ),
        Dialect(
            'SGLang', '/generate', _sglang_body, _sglang_read, {},
            adapters=('/load_lora_adapter', '/unload_lora_adapter'),
        ),
        Dialect(
            'LMDeploy', '/generate', _lmdeploy_body, _lmdeploy_read, {**NOTHING, 'logprobs': (None, 0)}, many=False,
        ),
    )
}  # fmt: skip
