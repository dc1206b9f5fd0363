"""What is known of one request on its way: for the access log, the audit log and the metrics. Never its content."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from swift.serve.auth import ANYBODY, Key


@dataclass(eq=False)
class Call:
    """A request. ``first`` is when the first byte of an answer was ready."""

    method: str
    path: str
    client: str
    key: Key = ANYBODY
    id: str = field(default_factory=lambda: f'req-{uuid.uuid4().hex}')
    began: float = field(default_factory=time.monotonic)
    status: int | None = None
    model: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    first: float | None = None
    code: str | None = None  # of the error that answered it
    gone: bool = False  # the client left
    detail: dict[str, Any] = field(default_factory=dict)  # what was said, where a flag asks for it

    @property
    def quiet(self) -> bool:
        """Whether it is one of the questions that probes ask all day long, and was answered well."""
        return self.method == 'GET' and self.status == 200 and not self.path.startswith('/v1/')

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self.began

    def record(self) -> dict[str, Any]:
        """What is written of it when it has ended."""
        return {
            'time': round(time.time(), 3),
            'id': self.id,
            'key': self.key.id,
            'method': self.method,
            'route': self.path[:200],
            'status': 499 if self.gone else self.status,
            'ms': round(self.seconds * 1000, 1),
            'first_ms': None if self.first is None else round((self.first - self.began) * 1000, 1),
            'model': self.model,
            'prompt_tokens': self.prompt_tokens,
            'answer_tokens': self.answer_tokens,
            'code': self.code,
        }
