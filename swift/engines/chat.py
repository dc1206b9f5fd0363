"""Between the words of the chat API and the engine's: configurations become Samplings, pieces become responses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swift.core.errors import RequestError
from swift.core.types import PICTURE, Message, Piece, Sampling, TokenLogprob
from swift.engines import protocol, structured
from swift.engines.protocol import InferRequest, RequestConfig
from swift.templates.answers import Answer

Decode = Callable[[Sequence[int]], str]
Hear = Callable[[str], Answer]
"""Finds reasoning and tool calls in a whole answer."""


@dataclass(frozen=True)
class Style:
    """What all responses of an engine share: the model's name, how tokens read, and how every answer begins."""

    model: str
    decode: Decode
    prefix: str = ''


@dataclass(frozen=True)
class Defaults:
    """What a model's generation config says of how it answers; ``end_ids`` are its end tokens."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    end_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any) -> Defaults:
        """Those of transformers' ``GenerationConfig``, or of the mapping in its file."""
        said = config if isinstance(config, Mapping) else config.to_dict()
        drawn = {name: said[name] for name in NUMBERS if said.get(name) is not None}
        temperature = _first(said.get('temperature'), 1.0) if said.get('do_sample') else 0.0
        return cls(temperature=temperature, end_ids=end_ids(said.get('eos_token_id')), **drawn)

    @classmethod
    def read(cls, folder: Path) -> Defaults:
        """Those of a model folder: generation_config.json, and the end tokens of config.json where it has none."""
        config = _json(folder / 'config.json')
        ends = _first(config.get('eos_token_id'), (config.get('text_config') or {}).get('eos_token_id'))
        return cls.of({'eos_token_id': ends, **_json(folder / 'generation_config.json')})


NUMBERS = ('top_k', 'top_p', 'min_p', 'repetition_penalty')
NOT_BUILT = {  # field -> values that ask for nothing
    'prompt_logprobs': (None,),
}


UNSEEN = {'videos': 'videos', 'audios': 'sounds'}


def conversation(request: InferRequest, model: str) -> tuple[tuple[Message, ...], list[Any]]:
    """The messages of a request to ``model``, which is what an error calls it, and the pictures in their places.

    Pictures come as parts of messages, or as ``images``, whose places have tags in the text.

    Raises:
        RequestError: it has other media, or pictures that do not fit their places.
        RowError: it has no messages, or a message cannot be read.
    """
    from swift.data.rows import messages as rows

    media: dict[str, list[Any]] = {}
    turns = rows.conversation(list(request.messages), 'messages', media)
    if found := [word for name, word in UNSEEN.items() if media.get(name) or getattr(request, name)]:
        raise RequestError(
            f'{model} is sent {" and ".join(found)}, which are not built yet; send text and pictures only',
            param='messages',
        )
    inside = media.get('images', [])
    if not request.images:
        return turns, inside
    if inside:
        raise RequestError('pictures both in the messages and as images: give all in one way', param='messages')
    return _placed(turns, len(request.images)), list(request.images)


def _placed(turns: Sequence[Message], count: int) -> tuple[Message, ...]:
    """The turns, in which every tag is a picture; those without a tag stand before the first question."""
    shown = lambda turn: turn.role != 'assistant'
    tags = sum(turn.content.count(PICTURE) for turn in turns if shown(turn))
    first = next((turn for turn in turns if turn.role == 'user'), None)
    if tags > count or (first is None and tags < count):
        raise RequestError(f'{count} images for {tags} tags {PICTURE} in the messages', param='messages')
    placed = []
    for turn in turns:
        more = PICTURE * (count - tags) if turn is first else ''
        text = more + turn.content
        places = tuple(found.start() for found in re.finditer(PICTURE, text)) if shown(turn) else ()
        placed.append(replace(turn, content=text, pictures=places))
    return tuple(placed)


def tools(request: InferRequest) -> tuple[dict[str, Any], ...]:
    """The schemas of the tools of a request. Raises RowError."""
    from swift.data.rows import messages as rows

    return tuple(rows.tools(request.tools)) if request.tools else ()


def sampling(config: RequestConfig, defaults: Defaults, *, longest: int, special: Mapping[str, int]) -> Sampling:
    """How to choose tokens.

    Args:
        defaults: of the model: what they say counts where ``config`` says nothing. Its end tokens end the answer,
            unless ``config.ignore_eos``.
        longest: limit of tokens where ``config`` has none.
        special: tokens that are one id each; as stop words they are recognised by it.

    Raises:
        RequestError: something is asked for that is not built.
    """
    for name, nothing in NOT_BUILT.items():
        if (value := getattr(config, name)) not in nothing:
            raise RequestError(f'{name} {value!r}: not built yet', param=name)
    if config.best_of not in (None, config.n):
        raise RequestError(f'best_of {config.best_of}: not built yet; ask for n answers', param='best_of')
    beams = _first(config.num_beams, 1)
    if beams == 1 and config.length_penalty not in (1.0, None):
        raise RequestError(
            f'length_penalty {config.length_penalty}: it is of a search with beams; give num_beams too',
            param='length_penalty',
        )
    if config.stream and beams > 1:
        raise RequestError(
            f'num_beams {beams}: the best answer is known when all are whole, so it cannot be streamed; '
            'leave stream out',
            param='stream',
        )
    stop = config.stop or []
    return Sampling(
        max_tokens=_first(config.max_tokens, longest),
        min_tokens=config.min_tokens,
        temperature=_first(config.temperature, defaults.temperature),
        top_k=_first(config.top_k, defaults.top_k),
        top_p=_first(config.top_p, defaults.top_p),
        min_p=_first(config.min_p, defaults.min_p),
        repetition_penalty=_first(config.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=config.presence_penalty,
        frequency_penalty=config.frequency_penalty,
        logit_bias=tuple(sorted((config.logit_bias or {}).items())),
        stop=tuple(word for word in stop if word not in special),
        stop_ids=(
            *(special[word] for word in stop if word in special),
            *(() if config.ignore_eos else defaults.end_ids),
        ),
        seed=config.seed,
        logprobs=(config.top_logprobs or 0) if config.logprobs else None,
        n=config.n,
        num_beams=beams,
        length_penalty=_first(config.length_penalty, 1.0),
        grammar=structured.from_request(
            config.response_format, config.structured_outputs, config.structured_outputs_regex
        ),
    )


def end_ids(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    """The ``eos_token_id`` of a generation config as end tokens."""
    return () if ids is None else tuple(ids) if isinstance(ids, Sequence) else (int(ids),)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


# -------------------------------------------------------------------------------------------------------- responses
def collect(
    pieces: Iterable[Piece], prompt_ids: Sequence[int], config: RequestConfig, style: Style, hear: Hear = Answer
) -> protocol.ChatCompletionResponse:
    """The whole response out of its pieces: the content is all that was said, with what is found in it beside it."""
    texts, ids, logprobs = [style.prefix] * config.n, [[] for _ in range(config.n)], [[] for _ in range(config.n)]
    finish: list[Any] = [None] * config.n
    for piece in pieces:
        texts[piece.index] += piece.text
        ids[piece.index] += piece.ids
        logprobs[piece.index] += piece.logprobs
        finish[piece.index] = piece.finish
    heard = [hear(text) for text in texts]
    choices = [
        protocol.ChatCompletionResponseChoice(
            index=i,
            message=protocol.ChatMessage('assistant', texts[i], tool_calls(heard[i]), heard[i].reasoning or None),
            finish_reason=ending(finish[i], heard[i]),
            logprobs=openai_logprobs(logprobs[i], style.decode),
            token_ids=ids[i] if config.return_details else None,
        )
        for i in range(config.n)
    ]
    return protocol.ChatCompletionResponse(
        model=style.model,
        choices=choices,
        usage=usage(len(prompt_ids), sum(map(len, ids))),
        prompt_token_ids=list(prompt_ids) if config.return_details else None,
    )


class Chunks:
    """Makes the pieces of one response: they share an id, and only the first of a choice has a role.

    Its tool calls come with the last one.
    """

    def __init__(self, prompt_tokens: int, style: Style, hear: Hear = Answer):
        self._shared = protocol.ChatCompletionStreamResponse(style.model, [])
        self._prompt_tokens, self._tokens = prompt_tokens, 0
        self._style, self._hear = style, hear
        self._said: dict[int, str] = {}

    def make(self, piece: Piece) -> protocol.ChatCompletionStreamResponse:
        """The response for the next piece."""
        self._tokens += len(piece.ids)
        first = piece.index not in self._said
        text = self._style.prefix + piece.text if first else piece.text
        self._said[piece.index] = self._said.get(piece.index, '') + text
        heard = self._hear(self._said[piece.index]) if piece.finish else Answer()
        choice = protocol.ChatCompletionResponseStreamChoice(
            index=piece.index,
            delta=protocol.DeltaMessage('assistant' if first else None, text, tool_calls(heard)),
            finish_reason=ending(piece.finish, heard),
            logprobs=openai_logprobs(piece.logprobs, self._style.decode),
        )
        shared = self._shared
        counted = usage(self._prompt_tokens, self._tokens)
        return protocol.ChatCompletionStreamResponse(
            shared.model, [choice], counted, id=shared.id, created=shared.created
        )


def tool_calls(heard: Answer) -> list[protocol.ChatCompletionMessageToolCall] | None:
    """The calls of an answer in the API's form; None if there are none."""
    calls = [
        protocol.ChatCompletionMessageToolCall(protocol.Function(call.name, call.arguments), id=call.id)
        for call in heard.calls
    ]
    return calls or None


def ending(finish: Any, heard: Answer) -> Any:
    """Why an answer ended: one that stopped with calls waits for what they give."""
    return 'tool_calls' if finish == 'stop' and heard.calls else finish


def usage(prompt: int, completion: int) -> protocol.UsageInfo:
    """Counts of tokens."""
    return protocol.UsageInfo(prompt, completion, prompt + completion)


def openai_logprobs(logprobs: Sequence[TokenLogprob], decode: Decode) -> dict[str, Any] | None:
    """The ``logprobs`` of a choice in the API's form; None if none were asked for."""
    if not logprobs:
        return None
    content = []
    for each in logprobs:
        top = [_token(id, logprob, decode) for id, logprob in each.top]
        content.append({**_token(each.id, each.logprob, decode), 'top_logprobs': top})
    return {'content': content}


def _token(id: int, logprob: float, decode: Decode) -> dict[str, Any]:
    text = decode([id])
    return {'token': text, 'logprob': logprob, 'bytes': list(text.encode())}
