"""What each key has used, in a Redis that several servers share: ``Ledger`` for replicas behind one address.

Everything happens in one script on the server, so counts are exact however many replicas ask at once, and windows are
those of its clock. A key of ours has one hash, which is forgotten when nobody used it for as long as its windows last.

Nothing is served unmetered. When Redis does not answer, requests are refused with 503 until it does. Tokens that were
used meanwhile are owed, and counted before anything else is let in; those whose count was cut off on its way may be
counted twice, never not at all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from swift.core.errors import ConfigError, need
from swift.core.log import get_logger
from swift.serve.errors import ApiError, later
from swift.serve.ledger import LIMITS, SECONDS, Allowance, refusal

TIMEOUT = 1.0  # seconds that Redis has for an answer
REST = 1.0  # seconds without asking again a Redis that did not answer: refusals must be quick
NONE = -1  # no limit
PREFIX = 'swift:used:'

SCRIPT = """
-- KEYS[1]: what a key has used: {WINDOW, WINDOW_requests, WINDOW_tokens} for each window.
-- ARGV: seconds since 1970 ('' for the clock of this server), requests, tokens,
--       then for each window: name, seconds, limit of requests, limit of tokens (-1: none).
-- Tokens are counted in any case, requests only within all limits.
-- Returns {what, window, limit, seconds to wait} of a limit that is reached, else {requests, tokens, ...} by window.
local now = tonumber(ARGV[1]) or tonumber(redis.call('TIME')[1])
local requests, tokens = tonumber(ARGV[2]), tonumber(ARGV[3])
local used, reached, longest = {}, nil, 0
for i = 4, #ARGV, 4 do
  local window, seconds = ARGV[i], tonumber(ARGV[i + 1])
  local number = math.floor(now / seconds)
  local had = redis.call('HMGET', KEYS[1], window, window .. '_requests', window .. '_tokens')
  local same = tonumber(had[1]) == number
  local counts = {same and tonumber(had[2]) or 0, same and tonumber(had[3]) or 0}
  for j, what in ipairs({'requests', 'tokens'}) do
    local limit = tonumber(ARGV[i + 1 + j])
    local after = counts[j] + (j == 2 and tokens or 0)
    if requests > 0 and limit >= 0 and after >= limit and not reached then
      reached = {what, window, limit, seconds - now % seconds}
    end
  end
  counts[2] = counts[2] + tokens
  longest = math.max(longest, seconds)
  used[#used + 1] = {window, number, counts[1], counts[2]}
end
if reached then requests = 0 end
local said = {}
for _, each in ipairs(used) do
  local window, number, before, all = unpack(each)
  if requests + tokens > 0 then
    redis.call('HSET', KEYS[1], window, number, window .. '_requests', before + requests, window .. '_tokens', all)
  end
  said[#said + 1] = before + requests
  said[#said + 1] = all
end
if requests + tokens > 0 then redis.call('EXPIRE', KEYS[1], 2 * longest) end
return reached or said
"""


class SharedLedger:
    """Counts of every key, as ``Ledger`` has them. Calls block for at most TIMEOUT; servers make them in a thread.

    Args:
        url: ``redis://[:password@]host[:port][/database]``, ``rediss://`` with TLS, or ``unix://path``.
        clock: seconds since 1970; None takes the clock of Redis, which all replicas share.

    Raises:
        ConfigError: the address is none, nothing answers there, or it does not let us in.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None):
        self._redis, self._clock = need('redis'), clock
        self._owed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._resting_until = 0.0
        self._store = self._connect(url)
        self._script = self._store.register_script(SCRIPT)

    def take(self, key: str, allowance: Allowance) -> None:
        """Count a request of ``key``. Raises ApiError: 429 at a limit of its, 503 when Redis does not answer."""
        answer = self._run(key, requests=1, allowance=allowance)
        if isinstance(answer[0], bytes):
            what, window, limit, wait = answer
            raise refusal(what.decode(), window.decode(), limit, wait)

    def count(self, key: str, tokens: int) -> None:
        """Count tokens that were read or written for ``key``: now, or when Redis answers again."""
        with self._lock:
            self._owed[key] += tokens
        self._run(key)

    def used(self, key: str) -> dict[str, dict[str, int]]:
        """``{'minute': {'requests', 'tokens'}, 'day': ...}`` of the windows that are now. Raises ApiError 503."""
        answer = self._run(key)
        return {window: {'requests': answer[2 * i], 'tokens': answer[2 * i + 1]} for i, window in enumerate(SECONDS)}

    def check(self) -> None:
        """Ask whether Redis answers. Raises ApiError 503."""
        with self._asking():
            self._store.ping()

    def close(self) -> None:
        """Count what is owed, where that is still possible, and let go of the connection."""
        try:
            for key in list(self._owed):
                self._run(key)
        except ApiError:
            get_logger().error('the quota store does not answer: %d tokens stay uncounted', self._owed.total())
        self._store.close()

    # ---------------------------------------------------------------------------------------------------------- parts
    def _connect(self, url: str) -> Any:
        place = url.partition('://')[2].rpartition('@')[2]  # never the password
        try:
            store = self._redis.from_url(
                url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=None, health_check_interval=30
            )
            store.ping()
        except (self._redis.RedisError, ValueError, OSError) as error:
            raise ConfigError(f'--quota_store {place}: no Redis answers there ({type(error).__name__})') from None
        return store

    def _run(self, key: str, *, requests: int = 0, allowance: Allowance | None = None) -> list[Any]:
        """Run the script, with what is owed. Raises ApiError 503."""
        with self._asking():
            answer = self._script(keys=[f'{PREFIX}{key}'], args=self._arguments(requests, self._owed[key], allowance))
            del self._owed[key]
            return answer

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """For the block Redis is ours to ask. Raises ApiError 503 when it does not answer, or did not a moment ago."""
        with self._lock:
            if time.monotonic() < self._resting_until:
                raise _away()
            try:
                yield
            except (self._redis.RedisError, OSError) as error:
                self._resting_until = time.monotonic() + REST
                get_logger().error('the quota store does not answer: %s', type(error).__name__)
                raise _away() from error

    def _arguments(self, requests: int, tokens: int, allowance: Allowance | None) -> list[Any]:
        found: list[Any] = ['' if self._clock is None else int(self._clock()), requests, tokens]
        for window, seconds in SECONDS.items():
            limits = [getattr(allowance, LIMITS[what, window], None) for what in ('requests', 'tokens')]
            found += [window, seconds, *(NONE if limit is None else limit for limit in limits)]
        return found


def _away() -> ApiError:
    return later('usage cannot be counted at the moment: the quota store does not answer', 'usage_unavailable', 5)
