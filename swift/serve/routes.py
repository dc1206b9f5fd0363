"""Which path answers what: one table that routing, documentation, metrics and fuzzing read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from swift import __version__
from swift.serve import adapters, chat, completions, messages, metrics, pooled, responses, schema
from swift.serve.bounds import SCHEMA
from swift.serve.call import Call
from swift.serve.house import House
from swift.serve.schema_messages import CountRequest, MessagesRequest
from swift.serve.schema_responses import ResponsesRequest

Endpoint = Callable[..., Awaitable[Response]]


class Route(NamedTuple):
    """``answer(asked, house, call)`` for a body of ``kind``; without a body ``answer(house, call)``.

    ``admin``: it changes what is served, and does not wait for the engine as others that have bodies do.
    """

    method: str
    path: str
    answer: Endpoint
    summary: str
    kind: type[BaseModel] | None = None
    admin: bool = False

    @property
    def in_line(self) -> bool:
        """Whether its requests wait for the engine."""
        return self.kind is not None and not self.admin


# ------------------------------------------------------------------------------------------------------------ health
async def live(house: House, call: Call) -> Response:
    """The process runs and its event loop turns."""
    return JSONResponse({'status': 'live'})


async def ready(house: House, call: Call) -> Response:
    """200 where requests are answered, 503 where not, with the reason."""
    reason = await house.health()
    return JSONResponse({'status': reason or 'ready'}, 503 if reason else 200)


async def version(house: House, call: Call) -> Response:
    """The version of swift."""
    return JSONResponse({'version': __version__})


# ------------------------------------------------------------------------------------------------------- information
async def models(house: House, call: Call) -> Response:
    """Names that ``model`` may have."""
    return JSONResponse({'object': 'list', 'data': [_model(house, name) for name in house.models]})


async def model(house: House, call: Call) -> Response:
    """One of them."""
    name = call.path.removeprefix('/v1/models/')
    house.adapter(name)
    return JSONResponse(_model(house, name))


def _model(house: House, name: str) -> dict[str, Any]:
    parent = None if name == house.name else house.name
    return {
        'id': name,
        'object': 'model',
        'created': house.created,
        'owned_by': house.owned_by,
        'root': name,
        'parent': parent,
        'max_model_len': house.chat.max_model_len,
    }


async def limits(house: House, call: Call) -> Response:
    """Every limit, and what the key has used."""
    key = call.key
    used = await house.book(house.ledger.used, key.id)
    allowance = vars(key.allowance)
    return JSONResponse(
        {
            'server': {
                **vars(house.bounds),
                'max_logprobs': house.max_logprobs,
                'max_model_len': house.chat.max_model_len,
            },
            'fields': SCHEMA,
            'key': {'id': key.id, **allowance, 'used': {**used, 'parallel': house.gate.open_of(key.id)}},
        }
    )


async def numbers(house: House, call: Call) -> Response:
    """Everything that is counted, for Prometheus."""
    return PlainTextResponse(metrics.text(await house.metrics()), media_type='text/plain; version=0.0.4')


COMMON = (
    Route('GET', '/health', ready, 'Whether requests are answered'),
    Route('GET', '/ready', ready, 'Whether requests are answered'),
    Route('GET', '/live', live, 'Whether the process runs'),
    Route('GET', '/ping', ready, 'As /health'),
    Route('POST', '/ping', ready, 'As /health'),
    Route('GET', '/version', version, 'The version of swift'),
    Route('GET', '/metrics', numbers, 'Numbers for Prometheus'),
    Route('GET', '/v1/models', models, 'Models and adapters that answer'),
    Route('GET', '/v1/models/{name:path}', model, 'One of them'),
    Route('GET', '/v1/limits', limits, 'Limits, and what the key has used'),
)
"""Whatever the model does."""
ROUTES = (
    *COMMON,
    Route('POST', '/v1/chat/completions', chat.answer, 'Continue a conversation', schema.ChatRequest),
    Route('POST', '/v1/completions', completions.answer, 'Continue a text', schema.CompletionRequest),
    Route('POST', '/v1/responses', responses.answer, 'Continue a conversation of items', ResponsesRequest),
    Route('POST', '/v1/messages', messages.answer, 'Continue a conversation, as Anthropic has it', MessagesRequest),
    Route('POST', '/v1/messages/count_tokens', messages.count, 'Tokens of such a conversation', CountRequest),
    Route('POST', '/v1/load_lora_adapter', adapters.load, 'Load an adapter (admin)', schema.AdapterLoad, True),
    Route('POST', '/v1/unload_lora_adapter', adapters.unload, 'Unload an adapter (admin)', schema.AdapterUnload, True),
)
"""What a model that generates is served by."""

READING = {
    'embedding': (Route('POST', '/v1/embeddings', pooled.embeddings, 'Vectors of texts', schema.EmbeddingRequest),),
    'seq_cls': (Route('POST', '/v1/classify', pooled.classify, 'Classes of texts', schema.ClassifyRequest),),
    'reranker': (
        Route('POST', '/v1/rerank', pooled.rerank, 'Documents in order', schema.RerankRequest),
        Route('POST', '/v1/score', pooled.score, 'Scores of pairs of texts', schema.ScoreRequest),
    ),
}
"""What models that read are served by, besides: task -> routes."""


def routes_of(task: str | None) -> tuple[Route, ...]:
    """The routes of a model's task."""
    if task in (None, 'causal_lm'):
        return ROUTES
    return (*COMMON, *READING['reranker' if task == 'generative_reranker' else str(task)])
