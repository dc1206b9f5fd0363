"""Requests come, go, fail and are aborted; whoever waits is told, and nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

from swift.core.errors import NumericalError, RequestError, SwiftError
from swift.core.types import Engine, Request, Sampling
from tests import tiny
from tests.engines.plain import PlainTemplate, ask, engine, held, prompts, reference

LONG = Sampling(max_tokens=200)
DEADLINE = 20.0  # seconds a test waits for what should take milliseconds


def balanced(stats) -> bool:
    return stats['accepted'] == stats['finished'] + stats['aborted'] + stats['failed'] + stats['open']


def settle(native) -> dict[str, float]:
    """The engine's figures once nothing is open."""
    end = time.monotonic() + DEADLINE
    while native.stats()['open'] and time.monotonic() < end:
        time.sleep(0.01)
    return native.stats()


def test_the_native_engine_is_an_engine():
    names = [name for name in vars(Engine) if not name.startswith('_')]
    with engine(tiny.model()) as native:
        assert all(hasattr(native, name) for name in names)


def test_an_aborted_request_ends_and_the_survivor_is_byte_exact():
    model = tiny.model()
    wanted = reference(model, prompts()[1], 60, eos_token_id=-1)
    with engine(model, stop_ids=()) as native, held(model, 2) as let_go:
        doomed = native.stream(Request('doomed', tuple(prompts()[2]), LONG))
        survivor = native.stream(Request('survivor', tuple(prompts()[1]), Sampling(max_tokens=60)))
        next(doomed)
        native.abort('doomed')
        let_go()
        assert list(doomed)[-1].finish == 'abort'
        assert [id for piece in survivor for id in piece.ids] == wanted
        stats = settle(native)
    assert (stats['aborted'], stats['finished'], stats['running']) == (1, 1, 0)
    assert balanced(stats)


def test_leaving_an_iterator_early_aborts_the_request():
    model = tiny.model()
    with engine(model, stop_ids=()) as native, held(model, 1) as let_go:
        stream = native.stream(Request('left', tuple(prompts()[0]), LONG))
        next(stream)
        stream.close()
        let_go()
        assert settle(native)['aborted'] == 1


def test_waiting_requests_can_be_aborted_too():
    model = tiny.model()
    with engine(model, stop_ids=(), max_batch_size=1) as native, held(model, 1) as let_go:
        first = native.stream(Request('first', tuple(prompts()[0]), LONG))
        second = native.stream(Request('second', tuple(prompts()[1]), LONG))
        next(first)
        native.abort('second')
        let_go()
        assert [piece.finish for piece in second] == ['abort']
        native.abort('nobody')
        assert len([id for piece in first for id in piece.ids]) == 199


def test_cancelling_a_task_aborts_its_request():
    async def scenario(native):
        async def read():
            async for _ in native.submit(Request('task', tuple(prompts()[0]), LONG)):
                started.set()

        started = asyncio.Event()
        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    model = tiny.model()
    with engine(model, stop_ids=()) as native, held(model, 1) as let_go:
        asyncio.run(asyncio.wait_for(scenario(native), DEADLINE))
        let_go()
        assert settle(native)['aborted'] == 1


def test_a_loop_that_is_closed_harms_nobody():
    async def forget(native):
        pieces = native.submit(Request('forgotten', tuple(prompts()[0]), LONG))
        await anext(aiter(pieces))

    model = tiny.model()
    with engine(model, stop_ids=()) as native, held(model, 1) as let_go:
        asyncio.run(forget(native))
        let_go()
        assert ask(native, prompts()[1:2], Sampling(max_tokens=5)) == [reference(model, prompts()[1], 5)]
        stats = settle(native)
    assert (stats['aborted'], stats['finished']) == (1, 1)
    assert balanced(stats)


def test_many_tasks_share_batches():
    async def one(native, i):
        prompt = prompts()[i % 5]
        return [
            id
            async for piece in native.submit(Request(f'{i}', tuple(prompt), Sampling(max_tokens=9)))
            for id in piece.ids
        ]

    async def all_of(native):
        start = threading.Event()
        native._worker.call(start.wait)  # no step before every request is queued
        asyncio.get_running_loop().call_later(0.1, start.set)
        return await asyncio.gather(*(one(native, i) for i in range(20)))

    model = tiny.model()
    with engine(model) as native:
        answers = asyncio.run(asyncio.wait_for(all_of(native), DEADLINE))
        stats = native.stats()
    wanted = [reference(model, prompt, 9) for prompt in prompts()]
    assert answers == [wanted[i % 5] for i in range(20)]
    assert stats['steps'] < 40


@pytest.mark.parametrize(
    'change, param',
    [
        ({'temperature': -1.0}, 'temperature'),
        ({'temperature': float('nan')}, 'temperature'),
        ({'top_p': 0.0}, 'top_p'),
        ({'top_p': float('nan')}, 'top_p'),
        ({'max_tokens': 0}, 'max_tokens'),
        ({'max_tokens': 5, 'min_tokens': 6}, 'min_tokens'),
        ({'logit_bias': ((400, 1.0),)}, 'logit_bias'),
        ({'logit_bias': ((5, float('nan')),)}, 'logit_bias'),
        ({'repetition_penalty': 0.0}, 'repetition_penalty'),
        ({'presence_penalty': float('inf')}, 'presence_penalty'),
        ({'n': 0}, 'n'),
        ({'seed': -1}, 'seed'),
    ],
)
def test_settings_out_of_range_are_refused_at_the_door(change, param):
    with engine(tiny.model()) as native, pytest.raises(RequestError, match=param) as caught:
        native.stream(Request('bad', (5,), Sampling(**change)))
    assert caught.value.param == param


@pytest.mark.parametrize('ids', [(), (400,), (-1,), tuple([5] * 256)])
def test_prompts_that_cannot_be_read_are_refused_at_the_door(ids):
    with engine(tiny.model()) as native, pytest.raises(RequestError):
        native.stream(Request('bad', ids))


def test_an_id_in_use_is_refused_and_the_first_request_goes_on():
    with engine(tiny.model(), stop_ids=()) as native:
        first = native.stream(Request('same', tuple(prompts()[0]), LONG))
        with pytest.raises(RequestError, match='in use'):
            list(native.stream(Request('same', tuple(prompts()[1]), LONG)))
        next(first)
        first.close()


def test_a_failing_forward_pass_reaches_its_waiters_and_the_engine_lives():
    model = tiny.model()
    wanted = reference(model, prompts()[0], 5)
    inner, broken = model.forward, threading.Event()

    def forward(*args, **kwargs):
        if broken.is_set():
            raise RuntimeError('the card fell out')
        return inner(*args, **kwargs)

    forward.__signature__ = inspect.signature(inner)
    model.forward = forward
    with engine(model, stop_ids=()) as native:
        stream = native.stream(Request('a', tuple(prompts()[1]), LONG))
        next(stream)
        broken.set()
        with pytest.raises(RuntimeError, match='fell out'):
            list(stream)
        broken.clear()
        assert ask(native, prompts()[:1], Sampling(max_tokens=5)) == [wanted]
        stats = settle(native)
    assert (stats['failed'], stats['finished']) == (1, 1)


def test_a_prompt_that_breaks_the_model_takes_no_other_with_it():
    model = tiny.model()
    wanted = [reference(model, prompt, 5) for prompt in prompts()]
    inner = model.forward

    def forward(input_ids=None, **kwargs):
        if (input_ids == 398).any():
            raise RuntimeError('cursed token')
        return inner(input_ids=input_ids, **kwargs)

    forward.__signature__ = inspect.signature(inner)
    model.forward = forward
    with engine(model) as native:
        good = [native.stream(Request(f'{i}', tuple(p), Sampling(max_tokens=5))) for i, p in enumerate(prompts())]
        bad = native.stream(Request('bad', (398,), Sampling(max_tokens=5)))
        assert [[id for piece in stream for id in piece.ids] for stream in good] == wanted
        with pytest.raises(RuntimeError, match='cursed'):
            list(bad)


def test_logits_that_are_not_finite_fail_the_request_instead_of_giving_a_token():
    model = tiny.model()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float('nan')
    with engine(model) as native, pytest.raises(NumericalError):
        list(native.stream(Request('nan', (5, 7), Sampling(max_tokens=5))))


def test_text_that_cannot_be_decoded_fails_its_own_request_only():
    model, plain = tiny.model(), PlainTemplate()
    ours, theirs = (reference(model, prompt, 6) for prompt in prompts()[:2])
    cursed = next(id for id in theirs if id not in ours)

    def decode(ids):
        if cursed in ids:
            raise ValueError('no such token')
        return plain.decode(ids)

    with engine(model, decode=decode) as native:
        bad = native.stream(Request('bad', tuple(prompts()[1]), Sampling(max_tokens=6)))
        assert ask(native, prompts()[:1], Sampling(max_tokens=6)) == [ours]
        with pytest.raises(ValueError, match='no such token'):
            list(bad)


def test_close_ends_what_is_open_and_refuses_what_comes():
    with engine(tiny.model(), stop_ids=()) as native:
        stream = native.stream(Request('a', tuple(prompts()[0]), LONG))
        next(stream)
        native.close()
        assert list(stream)[-1].finish == 'abort'
        with pytest.raises(SwiftError, match='closed'):
            native.stream(Request('b', tuple(prompts()[0]), LONG))


def test_a_dead_engine_tells_everyone():
    with engine(tiny.model(), stop_ids=()) as native:
        native._scheduler.step = None  # a fault of our own inside a step
        stream = native.stream(Request('a', tuple(prompts()[0]), LONG))
        with pytest.raises(SwiftError, match='died'):
            list(stream)
        with pytest.raises(SwiftError, match='died'):
            native.stream(Request('b', tuple(prompts()[0]), LONG))


def test_an_engine_that_nobody_holds_frees_its_model():
    model = tiny.model()
    gone = weakref.ref(model)
    with engine(model) as native:
        ask(native, prompts()[:1], Sampling(max_tokens=2))
    thread = native._worker._thread
    del native, model
    thread.join(DEADLINE)
    del thread
    gc.collect()
    assert gone() is None


def test_dropping_an_engine_without_closing_it_ends_its_thread():
    from swift.engines.native.engine import NativeEngine
    from swift.engines.native.scheduler import Limits

    native = NativeEngine(tiny.model(), decode=PlainTemplate().decode, limits=Limits(64))
    thread = native._worker._thread
    del native
    gc.collect()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_update_changes_the_answers_and_refuses_strange_weights():
    model, other = tiny.model(seed=0), tiny.model(seed=1)
    wanted = reference(other, prompts()[0], 8)
    with engine(model) as native:
        assert ask(native, prompts()[:1], Sampling(max_tokens=8)) != [wanted]
        native.update(other.state_dict().items())
        assert ask(native, prompts()[:1], Sampling(max_tokens=8)) == [wanted]
        with pytest.raises(SwiftError, match='no weight'):
            native.update([('model.strange', torch.zeros(1))])
        with pytest.raises(SwiftError, match='not \\(1,\\)'):
            native.update([('model.norm.weight', torch.zeros(1))])


ENDING = """
import threading
from swift.core.types import Request, Sampling
from tests import tiny
from tests.engines.plain import engine

never_left = [engine(tiny.model(), stop_ids=()) for _ in range(8)]
begun = threading.Semaphore(0)
for opened in never_left:
    opened.__enter__().begin(Request('long', (5, 6, 7), Sampling(max_tokens=200)), lambda _: begun.release())
for _ in never_left:
    begun.acquire()
"""


def test_a_program_that_ends_while_engines_compute_ends_with_0():
    done = subprocess.run([sys.executable, '-c', ENDING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
