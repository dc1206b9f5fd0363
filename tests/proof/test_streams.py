"""Many streams over a real engine: whoever stays gets to the byte what it gets alone, whoever leaves leaves nothing.

Bounds of time are those of a busy machine; what was measured on a quiet one is in docs/serving.md.
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.proof.crowd import ask, together
from tests.proof.deployed import deployed, until
from tests.proof.worlds import NAMES, question, world

pytestmark = pytest.mark.slow

STREAMS, STAY = 64, 0.7  # and the share of those that do not leave
OVERLOAD, OVERLOAD_SECONDS, LEAST = 20, 8.0, 40.0  # times what can be answered, for how long, and requests/s at least
BUSY = 8  # times slower than on a quiet machine
LEFT, REFUSED = 0.25 * BUSY, 0.05 * BUSY  # seconds until a place is free again, and until a refusal


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with deployed(*world(tmp_path_factory.mktemp('adapters')).flags, '--queue', '32', '--log_interval', '-1') as made:
        yield made
        assert made.end()[0] == 0


def is_well(server) -> None:
    """Nothing is open, held or lost."""
    until(lambda: server.numbers()['swift_engine_open'] == 0, what='requests stay open')
    until(lambda: server.numbers()['swift_engine_kv_used'] == 0, what='pages stay held')
    found = server.numbers()
    assert found['swift_queue_running'] == found['swift_queue_waiting'] == found['swift_engine_running'] == 0
    ended = sum(found[f'swift_engine_{how}'] for how in ('finished', 'aborted', 'failed'))
    assert found['swift_engine_accepted'] == ended
    assert found['swift_engine_failed'] == found['swift_engine_restarts'] == 0


def test_who_stays_gets_what_it_gets_alone_and_who_leaves_leaves_nothing(server):
    bodies = [question(i) for i in range(STREAMS)]
    alone = [together(ask(server.port, body))[0] for body in bodies]
    assert all(heard.whole for heard in alone)
    draw = random.Random(7)
    leave = [None if draw.random() < STAY else 6 * draw.random() for _ in bodies]
    began = time.monotonic()
    found = together(*(ask(server.port, body, leave_after=after) for body, after in zip(bodies, leave, strict=True)))
    print(f'{sum(not heard.done for heard in found)} of {STREAMS} left, {time.monotonic() - began:.1f} s')
    for before, after, leaves in zip(alone, found, leave, strict=True):
        assert before.text.startswith(after.text)
        if leaves is None:
            assert after.whole, after
            assert (after.text, after.finish) == (before.text, before.finish)
    is_well(server)


def test_no_answer_comes_from_the_wrong_adapter(server):
    texts = {name: together(ask(server.port, question(4, model=name)))[0].text for name in NAMES}
    assert len(set(texts.values())) == 4
    for _ in range(2):
        asked = [NAMES[i % 4] for i in range(24)]
        found = together(*(ask(server.port, question(4, model=name)) for name in asked))
        assert [heard.text for heard in found] == [texts[name] for name in asked]
    is_well(server)


def test_an_abort_frees_its_place_in_a_step(server):
    took = []
    for i in range(20):
        bodies = [question(j, max_tokens=1500, ignore_eos=True) for j in range(1 + i, 9 + i)]
        together(*(ask(server.port, body, leave_after=1.0) for body in bodies))
        left = time.monotonic()
        until(lambda: server.numbers()['swift_engine_open'] == 0)
        took.append(time.monotonic() - left)
    took.sort()
    print(f'free after {took[10] * 1000:.0f} ms (median), {took[-1] * 1000:.0f} ms (most)')
    assert took[10] < LEFT
    is_well(server)


def test_20_times_the_load_is_refused_at_once_and_what_is_let_in_is_answered(server):
    rate = _answered(together(*(ask(server.port, question(i, max_tokens=8)) for i in range(48))))
    every = 1 / max(OVERLOAD * rate, LEAST)

    async def flood():
        """Requests come when they come, whether earlier ones are answered or not."""
        began, asked = time.monotonic(), []
        while (now := time.monotonic() - began) < OVERLOAD_SECONDS:
            while len(asked) * every <= now:
                asked.append(asyncio.ensure_future(ask(server.port, question(len(asked), max_tokens=8))))
            await asyncio.sleep(min(every, 0.01))
        return await asyncio.gather(*asked)

    found = asyncio.run(flood())
    assert {heard.status for heard in found} == {200, 429}
    assert all(heard.whole for heard in found if heard.status == 200)
    refused = sorted(heard.seconds for heard in found if heard.status == 429)
    assert all(int(heard.headers['retry-after']) >= 1 for heard in found if heard.status == 429)
    median, late = (refused[int(share * len(refused))] for share in (0.5, 0.99))
    print(
        f'{1 / every:.0f} requests/s; {len(refused)} of {len(found)} refused after {median * 1000:.0f} ms (p50), '
        f'{late * 1000:.0f} ms (p99); answered {_answered(found):.1f}/s, before {rate:.1f}/s'
    )
    assert median < REFUSED
    is_well(server)


def _answered(found) -> float:
    """Answers a second, of clients that came together."""
    return sum(heard.whole for heard in found) / max(heard.seconds for heard in found)


def test_readers_that_are_slow_slow_nobody_else_and_miss_nothing(server):
    fast = together(*(ask(server.port, question(i)) for i in range(8, 16)))
    both = together(*(ask(server.port, question(i), pause=0.1 * (i < 8)) for i in range(16)))
    assert all(heard.whole for heard in both)
    assert [heard.text for heard in both[8:]] == [heard.text for heard in fast]
    is_well(server)
