"""The queue before the engine: bounded, fair between keys, and never short of a place that somebody left."""

from __future__ import annotations

import asyncio
import random

import pytest

from swift.serve.errors import ApiError
from swift.serve.gate import Gate


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
