"""Time that tests set by hand."""

import asyncio
import contextlib
import selectors

DAY = 86_400
NOON = 20_000 * DAY + DAY // 2


class Clock:
    """Says ``now``; it is noon until a test says otherwise."""

    now = NOON

    def __call__(self):
        return self.now


def ahead(coroutine):
    """Run a coroutine whose waits take no time: the clock of its event loop goes ahead instead."""
    with contextlib.closing(_Ahead()) as loop:
        return loop.run_until_complete(coroutine)


class _Ahead(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(_Jumps(self))
        self.now = 0.0

    def time(self):
        return self.now


class _Jumps(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        self._loop.now += timeout or 0.0
        return super().select(0)
