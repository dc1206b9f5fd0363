"""The application: FastAPI's routing and documentation over the table of routes, behind the door.

Bodies are read by ``strict`` and not by FastAPI, so that nothing is parsed twice or more loosely; the documentation is
made from the same classes that validate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from swift import __version__
from swift.engines.protocol import printable
from swift.serve import strict
from swift.serve.door import Door
from swift.serve.errors import ANTHROPIC, ApiError, fault, invalid
from swift.serve.house import House
from swift.serve.routes import Route

INLINE = 32 << 10  # bytes of a body that is parsed at once; larger ones are parsed in a thread
REFUSALS = {
    400: 'The request is wrong',
    401: 'No key, or a wrong one',
    403: 'The key may not do this',
    404: 'No such model or route',
    408: 'The client was too slow',
    413: 'The body is too large',
    415: 'The body is no JSON',
    429: 'Too much at once; Retry-After says when to come back',
    431: 'The headers are too large',
    503: 'Not at the moment; Retry-After says when to come back',
}
ERROR = {
    'type': 'object',
    'required': ['error'],
    'properties': {
        'error': {
            'type': 'object',
            'required': ['message', 'type', 'param', 'code'],
            'properties': {
                'message': {'type': 'string'},
                'type': {'type': 'string'},
                'param': {'type': ['string', 'null']},
                'code': {'type': ['string', 'null']},
            },
        }
    },
}
ANTHROPIC_ERROR = {
    'type': 'object',
    'required': ['type', 'error'],
    'properties': {
        'type': {'const': 'error'},
        'error': {
            'type': 'object',
            'required': ['type', 'message'],
            'properties': {'type': {'type': 'string'}, 'message': {'type': 'string'}},
        },
    },
}
REFERENCE = '#/components/schemas/{model}'


def build(house: House, routes: Sequence[Route]) -> Door:
    """The ASGI application of a house."""
    app = FastAPI(title='swift', version=__version__, docs_url=None, redoc_url=None)
    for route in routes:
        app.add_api_route(
            route.path,
            _endpoint(route, house),
            methods=[route.method],
            summary=route.summary,
            name=f'{route.method.lower()} {route.path}',
            response_model=None,
            responses=_responses(route.path),
            openapi_extra=_body_of(route.kind),
        )
    app.exception_handler(ApiError)(_refused)
    app.exception_handler(HTTPException)(_no_route)
    app.exception_handler(Exception)(_failed)
    document(app, [route.kind for route in routes if route.kind is not None])
    house.routes = frozenset(route.path for route in routes)
    house.lines = frozenset(route.path for route in routes if route.in_line)
    return Door(app, house)


def _endpoint(route: Route, house: House) -> Callable[[Request], Awaitable[Response]]:
    if route.kind is None:

        async def plain(request: Request) -> Response:
            return await route.answer(house, request.scope['state']['call'])

        return plain

    async def with_body(request: Request) -> Response:
        call = request.scope['state']['call']
        asked = await _read(request, route.kind, house)
        if house.verbose:
            call.detail['request'] = printable(asked.model_dump(exclude_none=True))
        return await route.answer(asked, house, call)

    return with_body


async def _read(request: Request, kind: Any, house: House) -> BaseModel:
    """The body as what the route wants. Raises ApiError."""
    media = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if media != 'application/json':  # pages of other sites can send anything else without asking
        raise invalid('send the body with Content-Type: application/json', code='not_json', status=415)
    body = await request.body()
    if len(body) <= INLINE:
        return strict.parse(body, kind, depth=house.bounds.json_depth)
    return await house.work(lambda: strict.parse(body, kind, depth=house.bounds.json_depth))


async def _refused(request: Request, error: Any) -> Response:
    request.scope['state']['call'].code = error.code
    return JSONResponse(error.body(request.url.path), error.status, headers=dict(error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    """Our own fault, which goes on to the door, where it is logged."""
    return await _refused(request, fault(request.scope['state']['call'].id))


async def _no_route(request: Request, error: Any) -> Response:
    what = {404: f'there is no {request.url.path[:200]}', 405: f'{request.method} is not for {request.url.path[:200]}'}
    code = {404: 'not_found', 405: 'method_not_allowed'}.get(error.status_code)
    refusal = ApiError(error.status_code, what.get(error.status_code, str(error.detail)), code)
    response = await _refused(request, refusal)
    response.headers.update(error.headers or {})
    return response


# ----------------------------------------------------------------------------------------------------- documentation
def _body_of(kind: type[BaseModel] | None) -> dict[str, Any] | None:
    if kind is None:
        return None
    content = {'application/json': {'schema': {'$ref': REFERENCE.format(model=kind.__name__)}}}
    return {'requestBody': {'required': True, 'content': content}}


def _responses(path: str) -> dict[int | str, dict[str, Any]]:
    error = 'AnthropicError' if path.startswith(ANTHROPIC) else 'Error'
    content = {'application/json': {'schema': {'$ref': REFERENCE.format(model=error)}}}
    return {status: {'description': text, 'content': content} for status, text in REFUSALS.items()}


def document(app: FastAPI, kinds: Sequence[type[BaseModel]]) -> None:
    """Let the application's OpenAPI document have the classes that validate."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        made = plain()
        _, schemas = models_json_schema([(kind, 'validation') for kind in kinds], ref_template=REFERENCE)
        parts = made.setdefault('components', {})
        errors = {'Error': ERROR, 'AnthropicError': ANTHROPIC_ERROR}
        parts['schemas'] = {**parts.get('schemas', {}), **schemas.get('$defs', {}), **errors}
        parts['securitySchemes'] = {
            'key': {'type': 'http', 'scheme': 'bearer'},
            'x-api-key': {'type': 'apiKey', 'in': 'header', 'name': 'x-api-key'},
        }
        made['security'] = [{name: []} for name in parts['securitySchemes']]
        return made

    app.openapi = openapi  # type: ignore[method-assign]
