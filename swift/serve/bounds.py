"""Every limit of the server in one place: what ``GET /v1/limits`` shows, validation enforces and fuzzing knows.

All are fields of one value, so a deployment can change any of them, and a test can make them small.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """Limits of what is taken in, and of how long anything may take."""

    body_bytes: int = 4 * MIB
    """Bytes of a request's body."""
    media_body_bytes: int = 32 * MIB
    """The same where the model sees pictures."""
    large_bodies: int = 8
    """Bodies larger than body_bytes under way at once; more are answered with 503."""
    pictures: int = 16
    """Pictures of a request."""
    picture_pixels: int = 50_000_000
    """Their pixels together."""
    headers: int = 64
    """Headers of a request."""
    header_bytes: int = 16 << 10
    """Bytes of its request line and headers together."""
    json_depth: int = 32
    """Objects and lists inside each other."""
    connections: int = 512
    """Connections at once; then idle ones make room, and where none is, more are answered with 503."""
    queue: int = 256
    """Requests that wait for the engine; more are answered with 429."""
    queue_seconds: float = 30.0
    """How long they may have to wait, as places become free; who would wait longer is answered with 429."""
    head_seconds: float = 10.0
    """A client's time to send a request line and headers."""
    body_seconds: float = 30.0
    """A client's time to send the body."""
    write_seconds: float = 30.0
    """A client's time to take what was written for it."""
    idle_seconds: int = 15
    """How long a connection is kept open between requests."""
    deadline: float = 600.0
    """Seconds from the first byte of a request to the last of its answer."""


# Limits of the schema are fixed: documentation and validation are made from the same classes.
MESSAGES = 2048
TOOLS = 128
ANSWERS = 16
STOPS, STOP_LENGTH = 16, 256
TOP_LOGPROBS = 20
TEMPERATURE = 2.0
BIAS, BIASES = 100.0, 1024
GRAMMAR_BYTES = 8 << 10
PROMPTS = 256
INPUTS = 2048
NAME = 256
METADATA = 64
SEED = 2**63 - 1
TOKENS = 1 << 24
"""The largest number of tokens that any field may hold: more than any context."""

SCHEMA = {
    'messages': MESSAGES, 'tools': TOOLS, 'n': ANSWERS, 'stop': STOPS, 'stop_length': STOP_LENGTH,
    'top_logprobs': TOP_LOGPROBS, 'temperature': TEMPERATURE, 'logit_bias': BIASES, 'grammar_bytes': GRAMMAR_BYTES,
    'prompts': PROMPTS, 'inputs': INPUTS,
}  # fmt: skip
"""The same by name, for people."""
