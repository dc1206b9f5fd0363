"""Memory is read from the system: a peak is seen though it is over, and begins anew for each phase."""

import mmap

import pytest

from swift.plan import meter

pytestmark = pytest.mark.skipif(not meter.CLEAR.exists(), reason='the peak can only be restarted on Linux')
SIZE = 64 * 2**20


def hold(size):
    """Have memory for a moment that was nobody's before: the heap may hold as much from earlier."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for at in range(0, size, mmap.PAGESIZE):
            block[at] = 1  # memory that nobody touched is not there


def test_a_phase_keeps_the_peak_of_what_is_gone_again():
    peaks, before = {}, meter.read().now
    with meter.phase('high', peaks):
        hold(SIZE)
    with meter.phase('low', peaks):
        pass
    assert peaks['high'] >= before + SIZE * 0.9
    assert peaks['low'] <= peaks['high'] - SIZE * 0.9


def test_a_phase_that_comes_again_keeps_its_highest():
    peaks = {}
    for size in (SIZE, 1):
        with meter.phase('step', peaks):
            hold(size)
    assert peaks['step'] >= meter.read().now + SIZE * 0.5


def test_file_backed_pages_are_part_of_what_is_held():
    now = meter.read()
    assert 0 < now.file < now.now <= now.peak
