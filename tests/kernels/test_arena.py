"""Large tensors lie in a stretch of their own: whole, apart from each other, and without holes that stay."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
import torch

from swift.kernels import arena, compiled
from swift.plan import meter

PAGES = 4096


@pytest.fixture(autouse=True, scope='module')
def installed():
    arena.install()
    if arena.facts() is None:
        pytest.skip('no compiler')


def used() -> int:
    return arena.facts().used


def test_large_tensors_lie_there_and_small_ones_do_not():
    before = used()
    large, small = torch.empty(arena.LEAST, dtype=torch.uint8), torch.empty(arena.LEAST - 1, dtype=torch.uint8)
    assert used() == before + arena.LEAST and large.data_ptr() % PAGES == 0
    del large, small
    assert used() == before


def test_tensors_that_come_and_go_keep_their_values_and_leave_one_hole():
    """A thousand tensors of random sizes, each filled with its number, looked at when it goes."""
    draw, held, before = random.Random(0), {}, arena.facts()
    for number in range(1000):
        held[number] = torch.full((draw.randrange(1 << 14, 1 << 18),), float(number))
        if len(held) > 20:
            gone = draw.choice(list(held))
            assert (held.pop(gone) == gone).all()
    places = sorted((each.data_ptr(), each.nbytes) for each in held.values())
    assert all(at + size <= following for (at, size), (following, _) in pairwise(places))
    assert all((each == number).all() for number, each in held.items())
    held.clear()
    assert arena.facts().used == before.used and arena.facts().holes <= before.holes + 1


def test_micro_batches_of_other_shapes_take_what_the_largest_takes():
    def batch(tokens: int) -> None:
        kept = [torch.empty(tokens, width) for width in (256, 768, 256, 512) * 6]
        for _ in range(len(kept)):
            kept.pop()
            torch.empty(tokens, 384)

    batch(1000)
    top = arena.facts().top
    for tokens in (990, 410, 777, 805, 913, 120, 999):
        batch(tokens)
    assert arena.facts().top == top


def test_threads_share_it():
    def work(number: int) -> None:
        for _ in range(200):
            one = torch.full((1 << 15,), float(number))
            wrong.extend([number] * int((one != number).any()))

    wrong: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not meter.STATUS.exists(), reason='the system does not count pages')
def test_trimming_gives_free_pages_back_and_keeps_the_others():
    kept, gone = torch.ones(1 << 20), torch.ones(1 << 25)
    full = meter.read().now
    del gone
    arena.trim()
    assert meter.read().now < full - (100 << 20)
    assert (kept == 1).all() and (torch.zeros(1 << 22) == 0).all()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the system has no fork')
def test_a_forked_process_has_its_own():
    kept = torch.ones(1 << 20)
    if not (child := os.fork()):
        kept += 1
        os._exit(0 if (torch.full((1 << 20,), 3.0) == 3).all() and (kept == 2).all() else 1)
    assert os.waitpid(child, 0)[1] == 0 and (kept == 1).all()


def test_more_than_the_machine_has_is_the_error_of_torch():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(1 << 50, dtype=torch.uint8)


def test_without_a_compiler_tensors_lie_where_they_lay():
    words = 'import torch; from swift.kernels import arena; arena.install(); arena.trim(); print(arena.facts())'
    done = subprocess.run(
        [sys.executable, '-c', words], env={**os.environ, 'SWIFT_KERNELS': 'off'}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, 'None'), done.stderr


def test_the_build_that_computes_is_named_without_it():
    assert compiled.identity() == compiled._library()._name.rpartition('/')[2].removesuffix('.so')
    assert compiled._library() is not arena._library()
