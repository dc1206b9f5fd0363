"""Where sequences come from, window by window: the store, rows tokenised while training runs, or a stream.

A window is a run of rows in the order of the epoch. Which rows it holds is a pure function of the seed, the epoch and
its position, so any window can be had again without those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from swift.core.log import get_logger
from swift.core.types import Encoded
from swift.data import mix
from swift.data.account import Account
from swift.data.corpus import digest
from swift.data.dataset import Dataset
from swift.data.encoding import Encoding
from swift.data.lint import Lint
from swift.data.store import Store
from swift.data.stream import Stream

WINDOW = 16384  # rows packed together, more for long packs: a window wastes half a pack, 0.05 % of 1,000
MOST = 65536
BLOCK = 256  # rows tokenised together where nothing is packed


@dataclass(frozen=True, slots=True)
class Window:
    """Sequences of consecutive rows: ``lengths`` int64 [n], and ``read(i)`` for each.

    ``number`` counts windows of the epoch. ``done`` is the part of the epoch before this one, ``share`` its own part;
    both are 0 where no one knows.
    """

    number: int
    at: Any
    lengths: np.ndarray
    read: Callable[[int], Encoded]
    done: float = 0.0
    share: float = 0.0


class Feed(Protocol):
    """``identity`` is the same for two feeds that give the same sequences in the same order and windows."""

    identity: str

    def windows(self, epoch: int, at: Any = None) -> Iterator[Window]:
        """Windows of an epoch, from the position ``at`` of one of them (None: the first)."""
        ...

    @property
    def account(self) -> Account: ...

    @property
    def lint(self) -> Lint: ...


class Rows:
    """The order of rows that can be counted. ``window`` rows go together."""

    def __init__(self, dataset: Dataset, *, seed: int, shuffle: bool, window: int):
        self.dataset, self._seed, self._shuffle, self._window = dataset, seed, shuffle, window

    def __len__(self) -> int:
        """Windows of an epoch."""
        return -(-len(self.dataset) // self._window)

    def windows(self, epoch: int, at: int | None) -> Iterator[tuple[int, np.ndarray, float, float]]:
        """(number, corpus rows, part of the epoch before, part of the epoch) of each window."""
        order = self.dataset.order
        if self._shuffle:
            order = order[mix.permutation(len(order), mix.EPOCH, self._seed, epoch)]
        count, size = len(order), self._window
        for number in range(at or 0, len(self)):
            rows = order[number * size : (number + 1) * size]
            yield number, rows, number * size / count, len(rows) / count

    def identity(self, fingerprint: str) -> str:
        """What decides the order and, with the template's fingerprint, the tokens."""
        order = digest(self.dataset.order.tobytes(), repr((self._seed, self._shuffle, self._window)))
        return digest(order, self.dataset.fingerprint(), fingerprint)


class StoreFeed:
    """Sequences of a filled store."""

    def __init__(self, store: Store, rows: Rows, fingerprint: str):
        self.store, self._rows, self.identity = store, rows, rows.identity(fingerprint)
        self.account, self.lint = store.account, store.lint

    def windows(self, epoch: int, at: int | None = None) -> Iterator[Window]:
        for number, rows, done, share in self._rows.windows(epoch, at):
            yield self._window(number, self.store.sequences(rows), done, share)

    def __len__(self) -> int:
        """Windows of an epoch."""
        return len(self._rows)

    def count(self) -> int:
        """Sequences of an epoch."""
        return len(self.store.sequences(self._rows.dataset.order))

    def _window(self, number: int, sequences: np.ndarray, done: float, share: float) -> Window:
        read = lambda i: self.store.read(int(sequences[i]))
        return Window(number, number, self.store.lengths[sequences], read, done, share)


class _Live:
    """Rows that are tokenised when they are needed; the first window is looked at by the lint."""

    def __init__(self, encoding: Encoding, max_rejected: float, strict: bool):
        self._encoding, self._max_rejected, self._strict = encoding, max_rejected, strict
        self._told = 0
        self.lint = Lint()

    @property
    def account(self) -> Account:
        """Rows so far; those of a second epoch count again."""
        return self._encoding.account

    def _judge(self, least: int) -> None:
        """After every window: name the rows that were rejected in it, and stop the run when they are too many.

        ``least`` rows, if so many have not been read yet, are what the rate is of: one bad row among the first ten is
        no tenth of the data.
        """
        account = self.account
        if new := account.rejected[self._told :]:
            self._told = len(account.rejected)
            get_logger(__name__).warning('%d rows rejected, the first: %s', len(new), new[0])
        account.check(self._max_rejected, of=max(account.read, least), strict=self._strict)
        if self._encoding.examiner is not None:
            self.lint, self._encoding.examiner = self._encoding.examiner.finish(), None


class LiveFeed(_Live):
    """Rows of a dataset, tokenised while training runs: the same windows as a StoreFeed, without a store."""

    def __init__(self, rows: Rows, encoding: Encoding, fingerprint: str, *, max_rejected: float, strict: bool):
        super().__init__(encoding, max_rejected, strict)
        self._rows, self.identity = rows, rows.identity(fingerprint)

    def windows(self, epoch: int, at: int | None = None) -> Iterator[Window]:
        for number, rows, done, share in self._rows.windows(epoch, at):
            sequences = self._tokenise(rows)
            yield Window(number, number, _lengths(sequences), sequences.__getitem__, done, share)

    def _tokenise(self, rows: np.ndarray) -> list[Encoded]:
        """Read in the order of the files, which parquet needs, and give back in the order of ``rows``."""
        dataset = self._rows.dataset
        made: list[list[Encoded]] = [[] for _ in rows]
        order = np.argsort(rows, kind='stable')
        ascending = rows[order].tolist()
        reads = ((dataset.corpus.origin(row), partial(dataset.sample_at, row)) for row in ascending)
        for i, sequences in zip(order.tolist(), self._encoding.rows(reads), strict=True):
            made[i] = sequences
        self._judge(min(WINDOW, len(dataset)))
        return [each for several in made for each in several]


class StreamFeed(_Live):
    """Rows of a stream, ``window`` at a time."""

    def __init__(
        self, stream: Stream, encoding: Encoding, fingerprint: str, *, window: int, max_rejected: float, strict: bool
    ):
        super().__init__(encoding, max_rejected, strict)
        self._stream, self._window = stream, window
        self.identity = digest(stream.fingerprint(), fingerprint, str(window))

    def windows(self, epoch: int, at: dict[str, Any] | None = None) -> Iterator[Window]:
        run = self._stream.start(epoch, at)
        number = at['number'] if at else 0
        while True:
            here = {'number': number, **run.state()}
            places = run.take(self._window)
            if not places:
                return
            sequences: list[Encoded] = []
            reads = ((self._stream.origin(place), partial(self._stream.sample, place)) for place in places)
            for each in self._encoding.rows(reads):
                sequences += each
            self._judge(WINDOW if len(places) == self._window else 0)
            yield Window(number, here, _lengths(sequences), sequences.__getitem__)
            number += 1


def _lengths(sequences: Sequence[Encoded]) -> np.ndarray:
    return np.asarray([len(each) for each in sequences], np.int64)
