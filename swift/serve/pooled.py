"""Models that read: ``/v1/embeddings``, ``/v1/rerank``, ``/v1/score``, ``/v1/classify``, by the task of the model.

texts --rows--> the engine's ``read`` --answers, tokens--> the words of the API
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.responses import JSONResponse, Response

from swift.core.errors import SwiftError
from swift.serve import words
from swift.serve.call import Call
from swift.serve.errors import from_engine, invalid, later
from swift.serve.house import House
from swift.serve.schema import ClassifyRequest, EmbeddingRequest, RerankRequest, ScoreRequest


@dataclass(frozen=True)
class Outline:
    """What stands in the place of a chat layer where the model only reads."""

    engine: Any
    model_name: str
    max_model_len: int
    default_adapter: str | None = None
    blind: str | None = 'the model reads texts'

    def close(self) -> None:
        """End the engine."""
        self.engine.close()


class Found(NamedTuple):
    """Answers of the engine to its rows, and the tokens that it read."""

    answers: list[dict[str, Any]]
    tokens: int


async def embeddings(asked: EmbeddingRequest, house: House, call: Call) -> Response:
    """A vector for each text."""
    found = await _read([{'text': text} for text in _texts(asked.input)], 'input', asked, house, call)
    pack = _base64 if asked.encoding_format == 'base64' else list
    data = [
        {'object': 'embedding', 'index': i, 'embedding': pack(answer['response'])}
        for i, answer in enumerate(found.answers)
    ]
    return JSONResponse({'object': 'list', 'data': data, 'model': call.model, 'usage': _usage(found)})


async def rerank(asked: RerankRequest, house: House, call: Call) -> Response:
    """Documents, the one that answers the query best first."""
    row = {'text': asked.query, 'documents': list(asked.documents)}
    found = await _read([row], 'documents', asked, house, call)
    scores = _scores(found.answers[0])
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: asked.top_n or None]
    shown = (lambda i: {}) if asked.return_documents is False else lambda i: {'document': {'text': asked.documents[i]}}
    results = [{'index': i, 'relevance_score': scores[i], **shown(i)} for i in best]
    return JSONResponse({**_opening('rerank', call), 'results': results, 'usage': _usage(found)})


async def score(asked: ScoreRequest, house: House, call: Call) -> Response:
    """How well each second text answers its first."""
    first, second = _texts(asked.text_1), _texts(asked.text_2)
    if len(first) == 1:
        rows = [{'text': first[0], 'documents': second}]
    else:
        rows = [{'text': one, 'documents': [other]} for one, other in zip(first, second, strict=True)]
    found = await _read(rows, 'text_2', asked, house, call)
    scores = [value for answer in found.answers for value in _scores(answer)]
    data = [{'index': i, 'object': 'score', 'score': value} for i, value in enumerate(scores)]
    return JSONResponse({**_opening('score', call), 'object': 'list', 'data': data, 'usage': _usage(found)})


async def classify(asked: ClassifyRequest, house: House, call: Call) -> Response:
    """The class of each text with the probabilities of all, or the numbers of a regression."""
    found = await _read([{'text': text} for text in _texts(asked.input)], 'input', asked, house, call)
    data = []
    for i, answer in enumerate(found.answers):
        probabilities = answer.get('probabilities')
        more = {} if probabilities is None else {'probs': probabilities, 'num_classes': len(probabilities)}
        data.append({'index': i, 'label': answer['response'], **more})
    return JSONResponse({**_opening('classify', call), 'object': 'list', 'data': data, 'usage': _usage(found)})


# -------------------------------------------------------------------------------------------------------------- parts
async def _read(rows: Sequence[dict[str, Any]], param: str, asked: Any, house: House, call: Call) -> Found:
    """Ask the engine. Raises ApiError."""
    house.adapter(asked.model)
    call.model = asked.model or house.name
    words.judge((text for row in rows for text in (row['text'], *row.get('documents', ()))), house, param)
    await house.admit(call)
    seconds = house.bounds.deadline - call.seconds
    try:
        async with asyncio.timeout(seconds), house.gate.turn(call.key.id, 1, call.key.allowance.parallel):
            answers, tokens = await house.work(house.chat.engine.call, 'read', list(rows))
    except TimeoutError:
        raise later(f'not answered within {house.bounds.deadline:g} s', 'deadline', 10) from None
    except SwiftError as error:
        raise from_engine(error) from error
    call.first, call.prompt_tokens = time.monotonic(), tokens
    house.count(call.key.id, tokens)
    if wrong := next((answer['error'] for answer in answers if 'error' in answer), None):
        raise invalid(f'{param}: {wrong}', param)
    return Found(answers, tokens)


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _scores(answer: dict[str, Any]) -> list[float]:
    """Scores of a row; of one document it is a number."""
    found = answer['response']
    return found if isinstance(found, list) else [found]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f'<{len(vector)}f', *vector)).decode()


def _opening(kind: str, call: Call) -> dict[str, Any]:
    return {name: value for name, value in words.opening(kind, '', call.model or '').items() if name != 'object'}


def _usage(found: Found) -> dict[str, int]:
    return {'prompt_tokens': found.tokens, 'total_tokens': found.tokens}
