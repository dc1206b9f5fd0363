"""The token store: every row rendered and tokenised once, on disk, found again by what it was made from.

    store = open_or_fill(dataset, encode, fingerprint, ...)     # the second run starts at once
    store.sequences(rows)                                       # which sequences rows became, int64
    store.read(i)                                               # one of them, as Encoded

A store is a committed folder of flat columns. Per token: ``ids``. Loss weights are runs of equal values, since they
change only where a turn does: ``ends`` and ``weights`` of each run. Per sequence: where its tokens and runs begin,
its row, file and line, a checksum of all that, and a digest of its content. What few rows have - a group's segments, a
label, a channel - is one JSON line of ``facts``, empty for most.

The key is made of the rows' fingerprint and where they lie (messages name files), the template's fingerprint, and the
source of this room, so a store is never stale; flags that only choose order, packs or batches do not count, so it
serves them all. Rows lie in the order of the files,
which keeps filling sequential; the order of training is applied when they are read. A store is filled under a lock:
a second run that needs the same one waits for the first.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from swift.core import files
from swift.core.errors import CorruptError, DataError, LockedError
from swift.core.log import get_logger
from swift.core.types import Encoded, Origin, Segments
from swift.data.account import Account, Rejected
from swift.data.corpus import digest
from swift.data.dataset import Dataset
from swift.data.encoding import Encode, Encoding
from swift.data.lint import Examiner, Lint
from swift.data.progress import track

COLUMNS: dict[str, Any] = {
    'ids': np.int32,  # [tokens]
    'ends': np.int32,  # [runs] where a run of equal weights ends in its sequence
    'weights': np.float32,  # [runs]
    'tokens': np.int64,  # [sequences + 1] first token of each
    'runs': np.int64,  # [sequences + 1] first run of each
    'rows': np.int64,  # [sequences] corpus row, ascending
    'paths': np.int32,  # [sequences] number of its file
    'lines': np.int64,  # [sequences] row in its file
    'facts': np.uint8,  # JSON of each sequence, end to end
    'told': np.int64,  # [sequences + 1] where each one's facts begin
    'checks': np.uint32,  # [sequences] CRC-32 of everything above
    'digests': np.uint64,  # [sequences] of the content, for finding doubles
}
REPORT = 'report.json'
FLUSH = 4096  # sequences between writes
PATIENCE = 3600.0  # seconds to wait for another run that fills the same store
NO_ROLES = np.zeros(0, np.uint8)
ROOM = Path(__file__).parent


class Store:
    """A filled store. Columns are mapped, not read; every sequence is checked when it is."""

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = files.read_manifest(folder)
        for name, facts in manifest.files.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != facts.size:
                raise CorruptError(f'{folder}/{name} is missing or cut off. {self._advice()}')
        self._columns = {name: _map(folder / f'{name}.bin', dtype) for name, dtype in COLUMNS.items()}
        self._report = json.loads((folder / REPORT).read_text(encoding='utf-8'))

    def __len__(self) -> int:
        return len(self._columns['rows'])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.diff(self._columns['tokens'])

    @property
    def digests(self) -> np.ndarray:
        return self._columns['digests']

    @cached_property
    def account(self) -> Account:
        saved = self._report['account']
        rejected = [Rejected(Origin(path, row), reason) for (path, row), reason in saved['rejected']]
        return Account(saved['used'], saved['dropped'], rejected)

    @cached_property
    def lint(self) -> Lint:
        return Lint.from_json(self._report['lint'])

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the sequences that these corpus rows became, row after row, int64."""
        first = np.searchsorted(self._columns['rows'], rows, side='left')
        counts = np.searchsorted(self._columns['rows'], rows, side='right') - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + within

    def origin(self, i: int) -> Origin:
        columns = self._columns
        return Origin(self._report['paths'][columns['paths'][i]], int(columns['lines'][i]))

    def read(self, i: int) -> Encoded:
        """Sequence ``i``, without roles. Raises CorruptError when its bytes have changed."""
        columns = self._columns
        tokens, runs = columns['tokens'][i : i + 2], columns['runs'][i : i + 2]
        ids = columns['ids'][tokens[0] : tokens[1]]
        ends, weights = columns['ends'][runs[0] : runs[1]], columns['weights'][runs[0] : runs[1]]
        place = np.asarray([columns['rows'][i], columns['paths'][i], columns['lines'][i]], np.int64)
        told = columns['told'][i : i + 2]
        facts = columns['facts'][told[0] : told[1]]
        if _check(place, ids, ends, weights, facts) != columns['checks'][i]:
            raise CorruptError(f'{self.folder}: sequence {i} has other bytes than were written. {self._advice()}')
        weight = np.repeat(weights, np.diff(ends, prepend=0))
        return Encoded(ids, weight, NO_ROLES, self.origin(i), **_facts_of(facts.tobytes()))

    def _advice(self) -> str:
        return f'Remove {self.folder.parent} and run again: it is only a cache'


def open_or_fill(
    dataset: Dataset,
    encode: Encode,
    fingerprint: str,
    *,
    folder: Path,
    examiner: Examiner,
    max_rejected: float = 0.01,
    strict: bool = False,
) -> Store:
    """The store of a dataset's rows, filled first if there is none.

    Args:
        fingerprint: of ``encode``: changes whenever the same Sample could become other tokens.
        folder: where stores are kept.
        max_rejected: largest part of the rows that may be rejected; ``strict`` allows none.

    Raises:
        DataError: too many rows are rejected, or none is left, or a file changed while it was read.
        DiskError: the disk is full.
    """
    key = store_key(dataset, fingerprint, examiner)
    judge = lambda account: dataset.tally.check(key, account, max_rejected, strict=strict)
    home = folder / key
    final = home / 'tokens'
    if not final.exists():
        with _own(home):
            if not final.exists():
                _fill(final, dataset, Encoding(encode, examiner), judge)
                if store_key(dataset, fingerprint, examiner) != key:
                    files.delete(final)
                    raise DataError('a data file changed while it was read; run again when it is complete')
    store = Store(final)
    judge(store.account)
    store.account.check_some()
    return store


def store_key(dataset: Dataset, fingerprint: str, examiner: Examiner) -> str:
    """What a store is found by."""
    parts = (fingerprint, examiner.fingerprint(), dataset.fingerprint(), *dataset.corpus.paths)
    return digest(room_version(), *parts)


def room_version() -> str:
    """A hash of the source that decides what a row becomes and how it is kept."""
    names = ['convert.py', 'corpus.py', 'encoding.py', 'likeness.py', 'lint.py', 'store.py']
    sources = [ROOM / name for name in names] + sorted(ROOM.glob('rows/*.py')) + sorted(ROOM.glob('tables/*.py'))
    return digest(*(path.read_text(encoding='utf-8') for path in sources))


# --------------------------------------------------------------------------------------------------------- filling
def _fill(final: Path, dataset: Dataset, encoding: Encoding, judge: Callable[[Account], None]) -> None:
    rows = np.unique(dataset.order).tolist()
    rejected = 0
    with files.commit(final) as temp, _Writer(temp, dataset) as writer:
        made = encoding.rows((dataset.corpus.origin(row), partial(dataset.sample_at, row)) for row in rows)
        for row, sequences in track(zip(rows, made, strict=True), 'tokenise', total=len(rows)):
            for each in sequences:
                writer.add(row, each)
            if len(encoding.account.rejected) > rejected:
                rejected = len(encoding.account.rejected)
                judge(encoding.account)
        encoding.account.check_some()
        writer.finish(encoding)


class _Writer:
    """Appends sequences to the columns in ``folder``, a few thousand at a time."""

    def __init__(self, folder: Path, dataset: Dataset):
        self._folder = folder
        self._paths = {path: number for number, path in enumerate(dict.fromkeys(dataset.corpus.paths))}
        self._open = contextlib.ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._pending: list[Encoded] = []
        self._rows: list[int] = []
        self._tokens = self._runs = self._told = 0

    def __enter__(self) -> _Writer:
        self._files = {name: self._open.enter_context((self._folder / f'{name}.bin').open('wb')) for name in COLUMNS}
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, row: int, each: Encoded) -> None:
        self._rows.append(row)
        self._pending.append(each)
        if len(self._rows) >= FLUSH:
            self._flush()

    def finish(self, encoding: Encoding) -> None:
        """Write what is left and the report."""
        self._flush()
        digests = encoding.examiner.digests()
        self._write(tokens=self._tokens, runs=self._runs, told=self._told, digests=digests)
        account = encoding.account
        report = {
            'account': {
                'used': account.used,
                'dropped': account.dropped,
                'rejected': [((each.origin.path, each.origin.row), each.reason) for each in account.rejected],
            },
            'lint': encoding.examiner.finish().to_json(),
            'paths': list(self._paths),
        }
        (self._folder / REPORT).write_text(json.dumps(report, ensure_ascii=False), encoding='utf-8')
        self._open.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        ids = np.concatenate([each.input_ids for each in self._pending])
        weight = np.concatenate([each.weight for each in self._pending])
        stops = np.cumsum([len(each) for each in self._pending])
        starts = np.concatenate([[0], stops[:-1]])
        changes = np.flatnonzero(weight[1:] != weight[:-1]) + 1
        ends = np.union1d(changes, stops)  # of runs, in this block
        runs = np.concatenate([[0], np.searchsorted(ends, stops, side='right')])
        weights = weight[ends - 1]
        ends = (ends - np.repeat(starts, np.diff(runs))).astype(np.int32)
        numbers = np.asarray([(self._paths[each.origin.path], each.origin.row) for each in self._pending], np.int64)
        places = np.column_stack([np.asarray(self._rows, np.int64), numbers])
        facts = [np.frombuffer(_facts(each), np.uint8) for each in self._pending]
        told = np.cumsum([0, *map(len, facts)])
        pieces = zip(places, starts, stops, runs[:-1], runs[1:], facts, strict=True)
        checks = [_check(place, ids[a:b], ends[c:d], weights[c:d], fact) for place, a, b, c, d, fact in pieces]
        self._write(
            ids=ids,
            ends=ends,
            weights=weights,
            tokens=starts + self._tokens,
            runs=runs[:-1] + self._runs,
            rows=places[:, 0],
            paths=places[:, 1],
            lines=places[:, 2],
            facts=np.concatenate(facts),
            told=told[:-1] + self._told,
            checks=checks,
        )
        self._told += int(told[-1])
        self._tokens += len(ids)
        self._runs += len(ends)
        self._pending, self._rows = [], []

    def _write(self, **columns: Any) -> None:
        for name, values in columns.items():
            np.ascontiguousarray(values, COLUMNS[name]).tofile(self._files[name])


def _check(place: np.ndarray, *content: np.ndarray) -> int:
    """CRC-32 of a sequence and where it belongs: its row, file and line."""
    sum = zlib.crc32(place)
    for each in content:
        sum = zlib.crc32(np.ascontiguousarray(each), sum)
    return sum


def _facts(each: Encoded) -> bytes:
    """What few rows have, as JSON; nothing for the others."""
    segments, label, channel = each.segments, each.label, each.channel
    if segments is None and not label and channel is None:
        return b''
    laid = None if segments is None else [segments.lengths, segments.prefix_of]
    return json.dumps([laid, label, channel], ensure_ascii=False, separators=(',', ':')).encode()


def _facts_of(line: bytes) -> dict[str, Any]:
    """Inverse of ``_facts``, by the fields of Encoded."""
    if not line:
        return {}
    laid, label, channel = json.loads(line)
    segments = None if laid is None else Segments(tuple(laid[0]), tuple(laid[1]))
    return {'segments': segments, 'label': tuple(label), 'channel': channel}


def _map(path: Path, dtype: Any) -> np.ndarray:
    """A column on disk as an array; a mapping of no bytes is not allowed."""
    return np.memmap(path, dtype, mode='r').view(np.ndarray) if path.stat().st_size else np.zeros(0, dtype)


@contextlib.contextmanager
def _own(home: Path) -> Iterator[None]:
    """Hold the lock of a store, waiting for another run that fills it."""
    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(home))
            except LockedError as error:
                if time.monotonic() > deadline:
                    raise LockedError(f'{error} (waited an hour for it to fill the token store)') from None
                if not told:
                    get_logger(__name__).info('another run is tokenising the same rows; waiting for it (%s)', error)
                told = True
            else:
                yield
                return
        time.sleep(0.2)
