"""A step is given all threads, or one where other processes hold the cores."""

import os
import time

import pytest
import torch

from swift.kernels import compiled, cores


class World:
    """A clock, a time waited for cores, and meetings, all set by hand."""

    def __init__(self):
        self.now, self.waited, self.meeting = 0.0, 0.0, 1e-6


@pytest.fixture
def world(monkeypatch):
    before, threads = torch.get_num_threads(), []
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    monkeypatch.setattr(torch, 'set_num_threads', threads.append)
    made = World()
    made.threads, made.before = threads, before
    made.cores = cores.Cores(lambda: made.waited, lambda: made.meeting, lambda: made.now)
    return made


def run(world, seconds, *, missed=0.0):
    """Steps of 10 ms for so long; each second ``missed`` seconds pass waiting while all threads work."""
    for _ in range(round(seconds / 0.01)):
        world.cores.share()
        world.now += 0.01
        if not world.cores.alone:
            world.waited += missed * 0.01


def test_free_cores_are_all_used(world):
    run(world, 10)
    assert not world.cores.alone
    assert set(world.threads) <= {4}


def test_one_thread_goes_on_alone_while_cores_are_taken_and_seldom_tries_the_others(world):
    run(world, 1)
    run(world, 60, missed=0.7)
    assert world.cores.alone
    assert world.threads.count(4) <= 10
    run(world, 20)  # they are free again
    assert not world.cores.alone
    assert world.threads[-1] == 4
    run(world, 1.0, missed=0.7)
    world.meeting = 1e-2
    run(world, 0.4)
    assert world.cores.alone  # the pause starts short again


def test_a_meeting_that_takes_long_is_enough_not_to_try(world):
    run(world, 0.5)
    run(world, 1.0, missed=0.7)
    tried, world.meeting = world.threads.count(4), 1e-2
    run(world, 60)
    assert world.cores.alone
    assert world.threads.count(4) - tried <= 8
    world.meeting = 1e-6
    run(world, 20)
    assert not world.cores.alone


@pytest.mark.skipif(compiled.missing() is not None, reason='no C++ compiler')
def test_real_meetings_and_waits_are_numbers():
    assert 0 < cores.meet() < 10
    assert cores.waited() >= 0


@pytest.mark.skipif(
    compiled.missing() is not None or not os.path.isdir('/proc/self/task'), reason='no kernels, or no /proc'
)
def test_threads_end_and_are_made_again():
    before, count = torch.get_num_threads(), lambda: len(os.listdir('/proc/self/task'))
    torch.set_num_threads(max(2, before))
    try:
        cores.meet()
        busy = count()
        cores.rest()
        end = time.monotonic() + 10
        while count() >= busy and time.monotonic() < end:
            time.sleep(0.01)
        assert count() < busy
        assert cores.meet() > 0
        assert count() == busy
    finally:
        torch.set_num_threads(before)


def test_a_neighbour_that_takes_a_core_now_and_then_leaves_it_to_all_threads(world):
    run(world, 60, missed=0.4)
    assert not world.cores.alone
    assert set(world.threads) <= {4}
