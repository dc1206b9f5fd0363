"""The queue before the engine: bounded, fair between keys, and never short of a place that somebody left."""

from __future__ import annotations

import asyncio
import random
import statistics

import pytest

from swift.core.errors import UnavailableError
from swift.serve.errors import ApiError
from swift.serve.gate import Gate
from tests.serve.clock import ahead


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def hold(gate, key, order, release, places=1, parallel=None):
    async with gate.turn(key, places, parallel):
        order.append(key)
        await release.wait()


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def test_places_are_bounded_and_given_on():
    async def story():
        gate, order, release = Gate(2, 10), [], asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, 'a', order, release)) for _ in range(5)]
        await settled()
        assert (gate.running, gate.waiting, len(order)) == (2, 3, 2)
        release.set()
        await asyncio.gather(*tasks)
        assert (gate.running, gate.waiting, len(order)) == (0, 0, 5)

    run(story())


def test_a_key_with_many_requests_does_not_hold_up_another():
    async def story():
        gate, order, release = Gate(1, 100), [], asyncio.Event()
        many = [asyncio.create_task(hold(gate, 'greedy', order, release)) for _ in range(20)]
        await settled()
        few = [asyncio.create_task(hold(gate, 'modest', order, release)) for _ in range(2)]
        await settled()
        release.set()
        await asyncio.gather(*many, *few)
        assert order.index('modest') == 1
        assert order[:5].count('modest') == 2

    run(story())


def test_a_full_queue_refuses_with_the_time_to_come_back():
    async def story():
        gate, release = Gate(1, 2), asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, 'a', [], release)) for _ in range(3)]
        await settled()
        for ask in (lambda: gate.check('a', None), None):
            with pytest.raises(ApiError) as caught:
                if ask:
                    ask()
                else:
                    await hold(gate, 'a', [], release)
            assert (caught.value.status, caught.value.code) == (429, 'queue_full')
            assert int(caught.value.headers['retry-after']) >= 1
        release.set()
        await asyncio.gather(*tasks)

    run(story())


def test_nobody_fills_the_queue_alone():
    async def story():
        gate, order, release = Gate(1, 4), [], asyncio.Event()
        greedy = [asyncio.create_task(hold(gate, 'greedy', order, release)) for _ in range(5)]
        await settled()
        gate.check('modest', None)
        modest = asyncio.create_task(hold(gate, 'modest', order, release))
        await settled()
        assert isinstance(greedy[-1].exception(), ApiError)
        release.set()
        await asyncio.gather(modest, *greedy[:-1])
        assert order.count('modest') == 1 and gate.running == gate.waiting == 0

    run(story())


def test_a_key_may_have_so_many_open():
    async def story():
        gate, release = Gate(8, 8), asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, 'a', [], release, parallel=2)) for _ in range(2)]
        await settled()
        with pytest.raises(ApiError) as caught:
            await hold(gate, 'a', [], release, parallel=2)
        assert caught.value.code == 'parallel_exceeded'
        release.set()
        await asyncio.gather(*tasks)
        gate.check('a', 2)

    run(story())


def test_an_answer_of_more_places_than_there_are_takes_all():
    async def story():
        gate, order, release = Gate(4, 8), [], asyncio.Event()
        wide = asyncio.create_task(hold(gate, 'a', order, release, places=16))
        narrow = asyncio.create_task(hold(gate, 'b', order, release))
        await settled()
        assert (gate.running, gate.waiting) == (4, 1)
        release.set()
        await asyncio.gather(wide, narrow)
        assert gate.running == 0

    run(story())


@pytest.mark.parametrize('seed', range(5))
def test_no_place_is_lost_whoever_leaves_whenever(seed):
    async def story():
        gate, draw = Gate(3, 30), random.Random(seed)

        async def visit(key):
            async with gate.turn(key, draw.choice((1, 1, 2, 5)), None):
                assert gate.running <= 3
                await asyncio.sleep(draw.random() * 0.002)

        tasks = []
        for i in range(200):
            tasks.append(asyncio.create_task(visit(f'{i % 7}')))
            await asyncio.sleep(draw.random() * 0.001)
            if draw.random() < 0.4:
                draw.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)
        assert not gate._open and not gate._taken and not gate._lines

    run(story())


# ---------------------------------------------------------------------------------------------------- how long it takes
LIMIT, LENGTH = 30.0, 600.0  # seconds that a request may have to wait, and that a story takes
TAKES = {  # seconds that an answer takes, drawn
    'short answers': lambda draw, now: draw.expovariate(1 / 2),
    'slow answers of one length': lambda draw, now: 60.0,
    'one in ten is long': lambda draw, now: 60.0 if draw.random() < 0.1 else 1.0,
    'longer ones after a while': lambda draw, now: 2.0 if now < LENGTH / 4 else 15.0,
}


async def flooded(gate, takes, rate, keys=('a',)):
    """(key, when it came, how long it waited or None where it was refused) of requests that come ``rate`` a second."""
    loop, draw, seen = asyncio.get_running_loop(), random.Random(1), []

    async def visit(key):
        came = loop.time()
        try:
            async with gate.turn(key, 1, None):
                seen.append((key, came, loop.time() - came))
                await asyncio.sleep(takes(draw, loop.time()))
        except ApiError as error:
            assert error.code == 'queue_full'
            seen.append((key, came, None))

    tasks = []
    while loop.time() < LENGTH:
        tasks.append(asyncio.ensure_future(visit(draw.choice(keys))))
        await asyncio.sleep(draw.expovariate(rate))
    await asyncio.gather(*tasks)
    return seen


@pytest.mark.parametrize('name', TAKES)
def test_who_would_wait_too_long_is_refused_and_no_place_stands_empty(name):
    async def story():
        places, draw = 16, random.Random(0)
        gate = Gate(places, 10_000, LIMIT, clock=asyncio.get_running_loop().time)
        usual = statistics.mean(TAKES[name](draw, LENGTH) for _ in range(2000))
        seen = await flooded(gate, TAKES[name], 10 * places / usual)
        waits = sorted(wait for _, came, wait in seen if wait is not None and came > LENGTH / 2)
        assert statistics.median(waits) < 1.5 * LIMIT
        assert waits[-1] < 3 * LIMIT
        begun = sum(wait is not None and LENGTH / 2 < came + wait < LENGTH for _, came, wait in seen)
        assert begun > 0.9 * (LENGTH / 2 - usual) * places / usual

    ahead(story())


def test_a_modest_key_is_let_in_where_a_greedy_one_has_filled_the_time():
    async def story():
        gate = Gate(8, 10_000, LIMIT, clock=asyncio.get_running_loop().time)
        seen = await flooded(gate, TAKES['short answers'], 40, keys=(*['greedy'] * 19, 'modest'))
        answered = [wait for key, _, wait in seen if key == 'modest' and wait is not None]
        assert len(answered) > 0.8 * min(4 * LENGTH / 2, sum(key == 'modest' for key, *_ in seen))
        assert statistics.median(answered) < LIMIT

    ahead(story())


def test_work_that_is_alone_does_not_promise_the_same_of_work_that_is_shared():
    async def story():
        gate, release = Gate(4, 1000, LIMIT, clock=asyncio.get_running_loop().time), asyncio.Event()
        for _ in range(200):
            async with gate.turn('a', 1, None):
                await asyncio.sleep(0.1)
        assert gate.wait(100) < 5
        tasks = [asyncio.create_task(hold(gate, 'a', [], release)) for _ in range(8)]
        await settled()
        soon = gate.wait()
        await asyncio.sleep(60)
        assert soon < 1 and gate.wait() == pytest.approx(5 * 60 / 4, rel=0.1)
        with pytest.raises(ApiError) as caught:
            gate.check('a', None)
        again = int(caught.value.headers['retry-after'])
        release.set()
        await asyncio.sleep(again)
        gate.check('a', None)
        await asyncio.gather(*tasks)

    ahead(story())


def test_an_engine_that_dies_is_not_taken_for_a_fast_one():
    async def story():
        gate = Gate(4, 1000, LIMIT, clock=asyncio.get_running_loop().time)

        async def ask(seconds, dies):
            async with gate.turn('a', 1, None):
                await asyncio.sleep(seconds)
                if dies:
                    raise UnavailableError('the engine died')

        await asyncio.gather(*(ask(10, False) for _ in range(40)))
        died = [asyncio.create_task(ask(1, True)) for _ in range(40)]
        await asyncio.gather(*died, return_exceptions=True)
        begun = [asyncio.create_task(ask(10, False)) for _ in range(5)]
        await settled()
        assert gate.wait() > 2
        await asyncio.gather(*begun)

    ahead(story())
