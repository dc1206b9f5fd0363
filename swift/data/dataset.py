"""Rows as people handle them in Python: a light list of standard messages rows over a corpus.

A Dataset is an order of row numbers and nothing more; ``select``, ``shuffle`` and ``map`` give new ones that share the
corpus. Indexing gives the standard row (a dict); ``sample(i)`` gives the Sample that training reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from swift.core import files
from swift.core.errors import RowError
from swift.core.types import Origin, Sample
from swift.data import mix
from swift.data.account import Account, Rejected, Tally
from swift.data.convert import convert
from swift.data.corpus import Corpus, digest, source_of
from swift.data.progress import track
from swift.data.rows.standard import to_row

Change = Callable[[dict[str, Any]], dict[str, Any]]


class Dataset:
    """``order`` int64 [n]: the corpus rows that this dataset is, in order; a row may come several times."""

    def __init__(
        self,
        corpus: Corpus,
        order: np.ndarray | None = None,
        *,
        changes: Sequence[Change] = (),
        tally: Tally | None = None,
    ):
        self.corpus = corpus
        self.order = np.arange(len(corpus)) if order is None else order
        self._changes = tuple(changes)
        self._tally = tally

    @property
    def tally(self) -> Tally:
        """What rejected rows are counted against: these rows, and those that were cut off from them."""
        if self._tally is None:
            self._tally = Tally(len(np.unique(self.order)))
        return self._tally

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row ``i`` in the standard form. Raises RowError when it cannot be read."""
        sample = self.sample(i)
        if sample is None:
            raise RowError(f'{self.origin(i)}: left out by the preprocessing of its dataset')
        return to_row(sample)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def readable(self) -> Iterator[dict[str, Any]]:
        """The standard rows, without those that cannot be read: the account of a run names them."""
        for i in range(len(self)):
            try:
                sample = self.sample(i)
            except RowError:
                continue
            if sample is not None:
                yield to_row(sample)

    def __repr__(self) -> str:
        return f'Dataset({len(self):,} rows of {", ".join(part.name for part in self.corpus.parts)})'

    def sample(self, i: int) -> Sample | None:
        """Row ``i`` as a Sample; None when its dataset's preprocessing leaves it out. Raises RowError."""
        try:
            return self.sample_at(self._row(i))
        except RowError as error:
            raise RowError(f'{self.origin(i)}: {error}') from None

    def sample_at(self, row: int) -> Sample | None:
        """The same for a corpus row; its errors do not name the row."""
        sample = self.corpus.sample(row)
        for change in self._changes if sample is not None else ():
            sample = convert(change(to_row(sample)), sample.origin)
        return sample

    def origin(self, i: int) -> Origin:
        return self.corpus.origin(self._row(i))

    def select(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """The rows at these positions, in this order."""
        return Dataset(self.corpus, self.order[np.asarray(indices, np.int64)], changes=self._changes)

    def shuffle(self, seed: int = 42) -> Dataset:
        return self.select(mix.permutation(len(self), mix.MIX, seed))

    def map(self, change: Change) -> Dataset:
        """The same rows, each passed through ``change`` (standard row -> row) whenever it is read."""
        return Dataset(self.corpus, self.order, changes=(*self._changes, change))

    def to_list(self) -> list[dict[str, Any]]:
        return list(self)

    def fingerprint(self) -> str:
        """Changes whenever the set of rows, or what is in one of them, does. Their order does not count."""
        return digest(self.corpus.fingerprint(), self._chosen, *map(source_of, self._changes))

    @cached_property
    def _chosen(self) -> str:
        """Which rows of the corpus are among these."""
        rows = np.unique(self.order)
        return 'all' if len(rows) == len(self.corpus) else digest(rows.tobytes())

    def _row(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f'row {i} of {len(self)}')
        return int(self.order[i])


def checked(dataset: Dataset, *, max_rejected: float = 0.01, strict: bool = False) -> tuple[Dataset, Account]:
    """Read every row once and keep those that can be read.

    Raises:
        DataError: more than ``max_rejected`` of them cannot, or one cannot and ``strict``.
    """
    account, good, key = Account(), np.zeros(len(dataset.corpus), bool), dataset.fingerprint()
    rows = np.unique(dataset.order)
    for row in track(map(int, rows), 'read', total=len(rows)):
        try:
            good[row] = dataset.sample_at(row) is not None
            account.used += bool(good[row])
            account.dropped += not good[row]
        except RowError as error:
            account.rejected.append(Rejected(dataset.corpus.origin(row), str(error)))
            dataset.tally.check(key, account, max_rejected, strict=strict)
    return dataset.select(np.flatnonzero(good[dataset.order])), account


def save(dataset: Dataset, path: Path) -> None:
    """Write the readable rows as jsonl, the whole file or none. Values that JSON lacks (bytes, dates) become text."""
    rows = dataset.readable()
    files.write(path, ''.join(json.dumps(row, ensure_ascii=False, default=str) + '\n' for row in rows))
