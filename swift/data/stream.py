"""Rows as they come: nothing is indexed or counted before the first one, and any point can be returned to.

What is shuffled, mixed and remembered are places of rows, never rows, so the state of a pass is small: where each
dataset's scan goes on, which places wait in the shuffle buffer, and how many random numbers were used. Random numbers
are functions of their count, so a pass put back to a state goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from swift.core.errors import DataError, RowError
from swift.core.types import Origin, Sample
from swift.data import mix
from swift.data.corpus import Part, digest
from swift.data.rows.standard import to_row
from swift.data.tables import Block, Cursor, Handle

RANDOMS = 1024  # made at a time


class Place(NamedTuple):
    """Where a row is: dataset, table of the dataset, place in the table."""

    dataset: int
    table: int
    handle: Handle


class Stream:
    """Datasets read in order, or drawn from with ``probabilities``, through a shuffle buffer of ``buffer`` places.

    ``counts`` are rows to take of each dataset in an epoch (None: all); a dataset that is shorter begins again.
    """

    def __init__(
        self,
        datasets: Sequence[Sequence[Part]],
        *,
        counts: Sequence[int | None],
        seed: int,
        buffer: int = 0,
        probabilities: Sequence[float] | None = None,
        all_exhausted: bool = False,
    ):
        self.datasets = [[(part, i) for part in parts for i in range(len(part.tables))] for parts in datasets]
        self.parts = [part for parts in datasets for part in parts]
        self.counts, self.seed, self.buffer = list(counts), seed, buffer
        self.probabilities, self.all_exhausted = probabilities, all_exhausted

    def start(self, epoch: int, state: dict[str, Any] | None = None) -> Pass:
        """A pass through the rows, from the beginning or from a state that ``Pass.state`` gave."""
        return Pass(self, epoch, state)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Standard rows of the first epoch. Raises RowError for one that cannot be read."""
        run = self.start(0)
        while places := run.take(1):
            try:
                sample = self.sample(places[0])
            except RowError as error:
                raise RowError(f'{self.origin(places[0])}: {error}') from None
            if sample is not None:
                yield to_row(sample)

    def origin(self, place: Place) -> Origin:
        part, table = self.datasets[place.dataset][place.table]
        return part.origin(table, place.handle)

    def sample(self, place: Place) -> Sample | None:
        """The row as a Sample; None when it is left out on purpose. Raises RowError."""
        part, table = self.datasets[place.dataset][place.table]
        return part.sample(table, place.handle)

    def fingerprint(self) -> str:
        """Changes whenever rows, how they are read, or their order do."""
        order = (self.counts, self.seed, self.buffer, self.probabilities, self.all_exhausted)
        return digest(repr(order), *(part.fingerprint() for part in self.parts))


class Pass:
    """One epoch. ``take`` gives the next places, ``state`` says where it stands."""

    def __init__(self, stream: Stream, epoch: int, state: dict[str, Any] | None):
        self._stream, self._key = stream, (stream.seed, epoch)
        counts = zip(stream.datasets, stream.counts, strict=True)
        states = state['readers'] if state else [None] * len(stream.datasets)
        self._readers = [
            _Reader(i, tables, count, at) for (i, (tables, count)), at in zip(enumerate(counts), states, strict=True)
        ]
        self._turn = _Randoms(mix.MIX, *self._key, used=state['turns'] if state else 0)
        self._draw = _Randoms(mix.BUFFER, *self._key, used=state['draws'] if state else 0)
        waiting = state['waiting'] if state else []
        self._waiting = [Place(dataset, table, Handle(*handle)) for dataset, table, *handle in waiting]

    def take(self, count: int) -> list[Place]:
        """The next ``count`` places; fewer at the end."""
        out = []
        while len(out) < count and (place := self._next()) is not None:
            out.append(place)
        return out

    def state(self) -> dict[str, Any]:
        """JSON that ``Stream.start`` goes on from."""
        return {
            'readers': [reader.state() for reader in self._readers],
            'turns': self._turn.used,
            'draws': self._draw.used,
            'waiting': [[place.dataset, place.table, *place.handle] for place in self._waiting],
        }

    def _next(self) -> Place | None:
        """Swap a random waiting place for the next one that comes; at the end, empty the buffer at random."""
        buffer = self._stream.buffer
        while buffer and len(self._waiting) < buffer and (place := self._upstream()) is not None:
            self._waiting.append(place)
        if not self._waiting:
            return self._upstream()
        i = int(self._draw.next() * len(self._waiting))
        place = self._waiting[i]
        self._waiting[i] = self._waiting[-1]
        self._waiting.pop()
        return place

    def _upstream(self) -> Place | None:
        """The next place in mixed order, before the shuffle buffer."""
        stream = self._stream
        if not stream.probabilities:
            return next((place for reader in self._readers if (place := reader.next()) is not None), None)
        if self._over():
            return None
        reader = self._readers[self._choose()]
        place = reader.next()
        if place is None:  # ran out in an earlier turn: begins again
            reader.restart()
            place = reader.next()
        return place

    def _choose(self) -> int:
        edge, turn = 0.0, self._turn.next()
        for i, probability in enumerate(self._stream.probabilities or ()):
            edge += probability
            if turn < edge:
                return i
        return len(self._readers) - 1  # the sum of the probabilities was rounded

    def _over(self) -> bool:
        out = [reader.exhausted() for reader in self._readers]
        return all(out) if self._stream.all_exhausted else any(out)


class _Reader:
    """Places of one dataset, in the order of its files."""

    def __init__(self, number: int, tables: Sequence[tuple[Part, int]], count: int | None, state: Sequence[int] | None):
        self._number, self._tables, self._count = number, tables, count
        self._table, offset, line, self._taken, ran_out = state or (0, -1, 0, 0, 0)
        self._ran_out = bool(ran_out)
        self._ahead: Place | None = None
        self._cursor: Cursor | None = Cursor(offset, line) if offset >= 0 else None
        self._places = self._scan()
        self._look()

    def next(self) -> Place | None:
        """The next place; None at the end of the files, or of the count."""
        place = self._ahead
        if place is not None:
            self._taken += 1
            self._look()
        return place

    def exhausted(self) -> bool:
        """Whether it has run out, now or before it began again."""
        if self._ahead is None:
            self._ran_out = True
        return self._ran_out

    def restart(self) -> None:
        self._taken, self._table, self._cursor = 0, 0, None
        self._places = self._scan()
        self._look()

    def state(self) -> list[int]:
        """[table, offset, line, rows taken, ran out]: where the place that comes next is."""
        self.exhausted()
        if self._ahead is None:
            return [len(self._tables), 0, 0, self._taken, 1]
        place = self._ahead
        return [place.table, place.handle.start, place.handle.line, self._taken, int(self._ran_out)]

    def _look(self) -> None:
        """Find the next place before it is asked for, so that running out is known at once."""
        if self._count is not None and self._taken >= self._count:
            self._ahead = None
            return
        self._ahead = next(self._places, None)
        if self._ahead is None and self._count is not None:  # fewer rows than asked for: begin again
            if not self._taken:
                raise DataError(f'{self._tables[0][0].name}: there are no rows')
            self._table, self._cursor = 0, None
            self._places = self._scan()
            self._ahead = next(self._places, None)

    def _scan(self) -> Iterator[Place]:
        for table in range(self._table, len(self._tables)):
            part, i = self._tables[table]
            for block in part.tables[i].scan(self._cursor):
                yield from self._of_block(table, block)
            self._cursor = None

    def _of_block(self, table: int, block: Block) -> Iterator[Place]:
        for i in range(len(block.starts)):
            yield Place(self._number, table, block.handle(i))


class _Randoms:
    """Floats in [0, 1), the n-th a pure function of the key and n."""

    def __init__(self, *key: int, used: int):
        self.used, self._key, self._block = used, key, None

    def next(self) -> float:
        block, i = divmod(self.used, RANDOMS)
        if self._block is None or i == 0:
            self._block = mix.uniform(RANDOMS, *self._key, block).tolist()
        self.used += 1
        return self._block[i]
