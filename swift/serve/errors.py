"""What a client is told when a request cannot be answered: a status, an error object, and when to come back.

Errors are OpenAI's; on the routes of Anthropic's API they are Anthropic's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from swift.core.errors import (
    RequestError,
    RowError,
    SwiftError,
    TemplateError,
    UnavailableError,
)

KINDS = {
    400: 'invalid_request_error',
    401: 'authentication_error',
    403: 'permission_error',
    404: 'invalid_request_error',
    429: 'rate_limit_error',
    500: 'internal_error',
    503: 'service_unavailable_error',
}
"""Types of errors by status; every other status from 400 on is an ``invalid_request_error``."""
ANTHROPIC = '/v1/messages'
ANTHROPIC_KINDS = {
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    413: 'request_too_large',
    429: 'rate_limit_error',
    500: 'api_error',
    503: 'overloaded_error',
}


@dataclass
class ApiError(Exception):
    """A refusal. ``param`` names the field that is wrong, ``code`` is for programs, ``headers`` go with the answer."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self, path: str) -> dict[str, Any]:
        """The JSON of the answer, as clients of the API that ``path`` belongs to expect it."""
        if path.startswith(ANTHROPIC):
            kind = ANTHROPIC_KINDS.get(self.status, 'invalid_request_error')
            return {'type': 'error', 'error': {'type': kind, 'message': self.message}}
        kind = KINDS.get(self.status, 'invalid_request_error')
        return {'error': {'message': self.message, 'type': kind, 'param': self.param, 'code': self.code}}

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """The same of an API whose fields have other names."""
        name = next((each for each in names if each == self.param), None)
        if name is None:
            return self
        message = names[name] + self.message.removeprefix(name) if self.message.startswith(name) else self.message
        return replace(self, message=message, param=names[name])


def invalid(message: str, param: str | None = None, *, code: str = 'invalid_value', status: int = 400) -> ApiError:
    """The request is wrong, and would be wrong again."""
    return ApiError(status, message, code, param)


def later(message: str, code: str, seconds: float, *, status: int = 503) -> ApiError:
    """The same request may be answered after ``seconds``."""
    return ApiError(status, message, code, headers={'retry-after': str(max(1, math.ceil(seconds)))})


def fault(id: str) -> ApiError:
    """We failed at request ``id``."""
    return ApiError(500, f'a fault of the server; tell its owner {id}', 'internal_error')


def from_engine(error: BaseException) -> ApiError:
    """What an engine or template said, as an answer. Faults of ours are 503: the next request finds a sound engine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return invalid(str(error), PARAMS.get(error.param or '', error.param))
    if isinstance(error, RowError | TemplateError):
        return invalid(str(error), 'messages')
    if isinstance(error, UnavailableError):
        return later(str(error), 'engine_unavailable', 5)
    if isinstance(error, SwiftError):
        return later(str(error), 'engine_error', 5)
    return later('the engine failed at this request', 'engine_error', 5)


PARAMS = {'adapter': 'model', 'logprobs': 'top_logprobs'}
"""Names of the engine's fields -> names of the API's."""
