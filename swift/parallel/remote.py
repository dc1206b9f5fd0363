"""A teacher behind an API: a server of the OpenAI kind that tells log-probabilities of a prompt, as vLLM does.

POST /v1/completions with token ids and ``prompt_logprobs``: for each position the likeliest next tokens. The teacher
must have the student's tokenizer: ids are all that is exchanged.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from swift.core.errors import ConfigError, SwiftError
from swift.core.types import Batch
from swift.kernels.divergence import Named
from swift.parallel import layout

AT_ONCE = 16  # requests under way
TRIES = 5
PAUSE = 1.0  # seconds before the second try, twice as long before each further one
TIMEOUT = 600.0
Row = list[tuple[int, float]]
"""Tokens with their log-probabilities, the likeliest first."""


class Server:
    """``teacher.Says`` of a server.

    Args:
        url: of the server, with or without /v1.
        top: how many tokens it is asked to name at each position.

    Raises:
        ConfigError: no such server answers.
    """

    def __init__(self, url: str, *, top: int):
        self.url, self.top = url.rstrip('/').removesuffix('/v1'), top
        try:
            self.model = self._ask('/v1/models')['data'][0]['id']
        except (SwiftError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(
                f'--teacher_model_server {url}: GET {self.url}/v1/models names no model: {error}'
            ) from None
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix='swift-teacher')

    def __call__(self, batch: Batch) -> Named:
        """What the server names at each target of the batch."""
        ids, weights = (each.split(batch.segments.lengths) for each in (batch.input_ids, batch.weight))
        wanted = [(i.tolist(), torch.nonzero(w)[:, 0].tolist()) for i, w in zip(ids, weights, strict=True)]
        found = self._pool.map(self._sequence, *zip(*[each for each in wanted if each[1]], strict=True))
        rows = [row for sequence in found for row in sequence]
        as_tensor = lambda column: layout.padded(torch.tensor([[pair[column] for pair in row] for row in rows]))
        return Named(*(_like(batch, as_tensor(column)) for column in (0, 1)))

    def _sequence(self, ids: list[int], targets: list[int]) -> list[Row]:
        """The rows of one sequence at its targets."""
        body = {
            'model': self.model, 'prompt': ids[: targets[-1] + 1], 'max_tokens': 1, 'temperature': 0.0,
            'prompt_logprobs': self.top,
        }  # fmt: skip
        answer = self._ask('/v1/completions', body)
        try:
            said = answer['choices'][0]['prompt_logprobs']
            return [_likeliest(said[at], self.top) for at in targets]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SwiftError(
                f'the teacher at {self.url} tells no {self.top} log-probabilities for each token ({error!r}); '
                'it must know prompt_logprobs, as vLLM does (start it with --max-logprobs at least as large)'
            ) from None

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The decoded answer. A server that is busy or starting is asked again."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {'Content-Type': 'application/json'})
        for attempt in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                reason = f'{error.code} {error.read()[:300].decode(errors="replace")}'
                if error.code < 500 and error.code != 429:
                    raise SwiftError(f'the teacher at {self.url}{path} refuses: {reason}') from None
            except (OSError, ValueError) as error:
                reason = str(error)
            if attempt < TRIES:
                time.sleep(PAUSE * 2 ** (attempt - 1))
        raise SwiftError(f'the teacher at {self.url}{path} did not answer, asked {TRIES} times: {reason}')


def _likeliest(said: dict[str, dict[str, Any]], count: int) -> Row:
    """Of {token id: {logprob, ...}}, as many as were asked for: the token that stands in the prompt comes extra."""
    row = sorted(((int(id), float(each['logprob'])) for id, each in said.items()), key=lambda pair: -pair[1])
    if len(row) < count:
        raise ValueError(f'{len(row)} of {count}')
    return row[:count]


def _like(batch: Batch, values: Tensor) -> Tensor:
    return values.to(batch.input_ids.device)
