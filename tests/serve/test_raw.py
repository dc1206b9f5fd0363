"""Requests cut off, garbled, contradictory, one upon the other, clients that leave at any moment: thousands of them."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections import Counter

import pytest

from swift.engines.fake import FakeEngine
from tests.serve.running import running, small

QUESTION = {'messages': [{'role': 'user', 'content': 'x' * 300}]}
BODIES = [json.dumps({**QUESTION, **more}).encode() for more in ({'max_tokens': 4}, {'stream': True})]
CHUNKED = (
    b'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: '
)
CODINGS = (b'chunked', b'Chunked', b'gzip, chunked', b'chunked, chunked', b'identity', b'x')
CHUNKS = (b'5\r\nhello\r\n', b'f' * 16 + b'\r\n', b'-1\r\n', b'5;x=y\r\nhello\r\n', b'\r\n', b'g\r\n', b'0\r\n\r\n')
LENGTHS = (b'0', b'-', b'+', b'9999', b'0x', b' ', b'1, ', b'9' * 30)
INSERTED = (b'\r\n', b'\0', b'\r', b'\n\n', b'\xff' * 9, b' ', b':')


def garbled(data: bytes, draw: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        made[draw.randrange(len(made))] = draw.randrange(256)
    return bytes(made)


def inserted(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + draw.choice(INSERTED) + data[at:]


WAYS = (
    lambda data, draw: data[: draw.randrange(len(data))],
    garbled,
    inserted,
    lambda data, draw: data.replace(b'content-length: ', b'content-length: ' + draw.choice(LENGTHS)),
    lambda data, draw: CHUNKED + draw.choice(CODINGS) + b'\r\n\r\n' + b''.join(draw.choices(CHUNKS, k=4)),
    lambda data, draw: data * draw.randrange(2, 6),
    lambda data, draw: data,
)


@pytest.mark.parametrize('count', [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_whatever_comes_over_a_socket_the_next_good_question_is_answered(count):
    draw, seen = random.Random(count), Counter()
    with running(engine=FakeEngine(step_seconds=0.001), bounds=small(head_seconds=1, body_seconds=1)) as server:
        for _ in range(count):
            data = draw.choice(WAYS)(server.request(draw.choice(BODIES)), draw)
            with contextlib.suppress(OSError), server.raw(data) as connection:
                connection.settimeout(draw.choice([0.0001, 0.002, 0.02, 0.3]))
                if draw.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)
                said = connection.recv(1 << 16)
                status = int(said[9:12]) if said else 0
                seen[status] += 1
                assert status < 500 or status == 503, (data, said)
        server.is_well()
        print(dict(seen))
    assert seen[200] and seen[400]
