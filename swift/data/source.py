"""Optimizer steps: sequences grouped, packed and laid end to end, in an order that any step can be returned to.

    source = batches(rows, template.encode, args, fingerprint=template.fingerprint, batch_size=4, accumulation=4)
    for step in source: ...                       # list[Batch]
    source.load_state_dict(source.state_dict())   # goes on at the very next step

An item is a pack with ``--packing true`` and else a sequence. A step is batch size x accumulation items; the last step
of an epoch may have fewer. The place of an item is (epoch, window, number in the window): all that a state holds, and
all that is needed to find it again, without replaying what came before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swift.core.errors import ConfigError, DataError
from swift.core.types import Batch, Encoded
from swift.data import lint, mix
from swift.data.account import Account
from swift.data.args import DataArgs
from swift.data.collate import collate, micro_batches, split
from swift.data.dataset import Dataset
from swift.data.encoding import Encode, Encoding
from swift.data.feeds import BLOCK, MOST, WINDOW, Feed, LiveFeed, Rows, StoreFeed, StreamFeed, Window
from swift.data.lint import Examiner, Lint
from swift.data.pack import STRATEGIES, Packs
from swift.data.progress import track
from swift.data.store import Store, open_or_fill, store_key
from swift.data.stream import Stream

LOOKED_AT = 50_000  # rows among which the largest micro-batch is looked for
PROBE = 64  # rows that tell how many rows go into a pack


class Packing(NamedTuple):
    """How items are made of sequences. ``length`` None: each sequence is an item."""

    length: int | None
    strategy: str
    seed: int

    def items(self, lengths: np.ndarray, epoch: int, window: int) -> Packs:
        """Items of a window, as numbers of its sequences, in the order of training."""
        if self.length is None:
            return [[i] for i in range(len(lengths))]
        packs = STRATEGIES[self.strategy](lengths, self.length)
        if self.strategy == 'sequential':
            return packs
        return [packs[i] for i in mix.permutation(len(packs), mix.PACKS, self.seed, epoch, window).tolist()]


class Place(NamedTuple):
    """Where the next item is: ``at`` is the position of a window (None: the first), ``item`` counts in it."""

    epoch: int
    at: Any
    item: int


class Source:
    """Iterator of optimizer steps; see ``batches``."""

    def __init__(
        self,
        feed: Feed,
        packing: Packing,
        *,
        batch_size: int,
        accumulation: int = 1,
        epochs: float = 1.0,
        max_steps: int = -1,
        max_tokens: int | None = None,
        drop_last: bool = False,
        refuse: bool = False,
    ):
        self.feed, self._packing = feed, packing
        self._batch_size, self._accumulation = batch_size, accumulation
        self._epochs, self._max_steps, self._max_tokens = epochs, max_steps, max_tokens
        self._drop_last, self._refuse = drop_last, refuse
        self._place, self._step, self._length = Place(0, None, 0), 0, None
        self._ahead: tuple[Window, Iterator[Window]] | None = None  # the next window, made before it is asked for
        self._prepared = False
        self.epoch = 0.0
        """How many epochs are behind, with the part of the one that runs."""

    def __iter__(self) -> Iterator[list[Batch]]:
        self.prepare()
        while not self._finished():
            whole, before = self._place.at is None, self._step
            yield from self._rest_of_epoch()
            if self._finished():
                return
            if whole and self._step == before:
                self.account.check_some()
                raise DataError('an epoch has too few rows for a single batch, and --dataloader_drop_last drops it')
            self._place = Place(self._place.epoch + 1, None, 0)
            self.epoch = float(self._place.epoch)

    def __len__(self) -> int:
        """Steps of the whole run. Raises TypeError when only running tells."""
        if self._max_steps > 0:
            return self._max_steps
        if not isinstance(self.feed, StoreFeed):
            raise TypeError('a stream has no length without --max_steps')
        if self._length is None:
            whole, part = divmod(self._epochs, 1)
            steps = [self._steps_in(epoch) for epoch in range(math.ceil(self._epochs))]
            self._length = sum(steps[: int(whole)]) + (math.ceil(part * steps[-1]) if part else 0)
        return self._length

    def prepare(self) -> None:
        """Make the first window, so that account and lint are known, and refuse data whose lint has errors."""
        if self._prepared:
            return
        self._prepared = True
        windows = self.feed.windows(self._place.epoch, self._place.at)
        first = next(windows, None)
        self._ahead = None if first is None else (first, windows)
        if self._refuse:
            self.feed.lint.refuse()

    @property
    def account(self) -> Account:
        """Rows used and rejected; of a stream, those so far."""
        self.prepare()
        return self.feed.account

    @property
    def lint(self) -> Lint:
        """Findings and statistics; of a stream, those of its first rows."""
        self.prepare()
        return self.feed.lint

    @property
    def identity(self) -> str:
        """The same for two sources that give the same rows."""
        return self.feed.identity

    def everything(self) -> Evaluation | None:
        """Every row once, in the order of the files; None when they are not all known."""
        if not isinstance(self.feed, StoreFeed):
            return None
        store = self.feed.store
        return Evaluation(store, np.arange(len(store)), batch_size=self._batch_size, max_tokens=self._max_tokens)

    def largest(self) -> list[Batch]:
        """The micro-batch with the most tokens, then the most squared lengths, behind another one of its step if any.

        Found by the lengths in the store, among the first ``LOOKED_AT`` rows: no others are read, and the source stays
        where it stands. Empty where lengths are not known before rows are tokenised.
        """
        if not isinstance(self.feed, StoreFeed):
            return []
        worst, found, seen = (0, 0), [], 0  # found: rows of a step, and the places of those in its batches
        for items in itertools.islice(self._steps_by_length(), len(self)):
            rows = [row for item in items for row in item]
            parts = split([[length for length, _ in item] for item in items], self._batch_size, self._max_tokens)
            for i, part in enumerate(parts):
                cost = sum(rows[j][0] for j in part), sum(rows[j][0] ** 2 for j in part)
                if cost > worst:
                    worst, found = cost, [(rows, each) for each in ([parts[i - 1], part] if len(parts) > 1 else [part])]
            seen += len(rows)
            if seen >= LOOKED_AT:
                break
        return [collate([rows[j][1]() for j in part], part) for rows, part in found]

    # ------------------------------------------------------------------------------------------------------- resume
    def state_dict(self) -> dict[str, Any]:
        """JSON: the place of the next item."""
        return {'step': self._step, 'epochs': self.epoch, 'order': self._order(), **self._place._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the step after the one that ``state`` was saved behind.

        Raises:
            DataError: the state is of other data, or of another order of it.
        """
        wrong = [name for name, value in self._order().items() if state['order'].get(name) != value]
        if wrong:
            raise DataError(
                f'the run that is resumed had other {", ".join(wrong)}: its place in the data means nothing here. Give '
                'the same data, template and flags, or start anew'
            )
        self._place = Place(state['epoch'], state['at'], state['item'])
        self._step, self.epoch = state['step'], state['epochs']
        self._prepared, self._ahead = False, None

    def _order(self) -> dict[str, Any]:
        """What decides the order of items, by the names that an error gives it."""
        return {
            'data': self.feed.identity,
            'packing': list(self._packing),
            'batch size': self._batch_size * self._accumulation,
        }

    # ------------------------------------------------------------------------------------------------------- stepping
    def _finished(self) -> bool:
        if self._max_steps > 0 or isinstance(self.feed, StoreFeed):
            return self._step >= len(self)
        return self._place.epoch >= math.ceil(self._epochs)

    def _rest_of_epoch(self) -> Iterator[list[Batch]]:
        """Steps from the current place to the end of its epoch."""
        size = self._batch_size * self._accumulation
        items: list[list[Encoded]] = []
        for item, place, epoch in self._items():
            items.append(item)
            if len(items) == size:
                yield self._made(items, place, epoch)
                if self._finished():
                    return
                items = []
        if self._drop_last:
            items = items[: len(items) // self._batch_size * self._batch_size]
        if items:
            yield self._made(items, place, epoch)

    def _made(self, items: list[list[Encoded]], place: Place, epoch: float) -> list[Batch]:
        """The step of these items; the source then stands behind them."""
        self._place, self.epoch, self._step = place, epoch, self._step + 1
        return micro_batches(items, self._batch_size, self._max_tokens)

    def _items(self) -> Iterator[tuple[list[Encoded], Place, float]]:
        """Items from the current place on, each with the place behind it and the epochs done by then."""
        epoch, _, skip = self._place
        for window in self._windows():
            packs = self._packing.items(window.lengths, epoch, window.number)
            for i in range(skip, len(packs)):
                done = epoch + window.done + window.share * (i + 1) / len(packs)
                yield [window.read(j) for j in packs[i]], Place(epoch, window.at, i + 1), done
            skip = 0

    def _steps_by_length(self) -> Iterator[list[list[tuple[int, Callable[[], Encoded]]]]]:
        """The items of each step from the first on: the length of each row, and what reads it."""
        items = []
        for epoch in range(math.ceil(self._epochs)):
            for window in self.feed.windows(epoch):
                for pack in self._packing.items(window.lengths, epoch, window.number):
                    items.append([(int(window.lengths[i]), partial(window.read, i)) for i in pack])
                    if len(items) == self._batch_size * self._accumulation:
                        yield items
                        items = []
            if items and not self._drop_last:
                yield items
            items = []

    def _windows(self) -> Iterator[Window]:
        if self._ahead is None:
            return self.feed.windows(self._place.epoch, self._place.at)
        first, rest = self._ahead
        self._ahead = None
        return itertools.chain([first], rest)

    def _steps_in(self, epoch: int) -> int:
        """Steps of an epoch, as established trainers count them."""
        items = self._items_in(epoch)
        batches = items // self._batch_size if self._drop_last else -(-items // self._batch_size)
        return -(-batches // self._accumulation)

    def _items_in(self, epoch: int) -> int:
        if self._packing.length is None:
            return self.feed.count()  # type: ignore[attr-defined]
        windows = track(self.feed.windows(epoch), 'pack', total=len(self.feed))  # type: ignore[arg-type]
        return sum(len(self._packing.items(window.lengths, epoch, window.number)) for window in windows)


class Evaluation:
    """Batches of evaluation rows, the same ones every time it is iterated."""

    def __init__(self, store: Store, sequences: np.ndarray, *, batch_size: int, max_tokens: int | None):
        self.store, self._sequences = store, sequences
        self._groups = self._grouped(batch_size, max_tokens)

    @property
    def account(self) -> Account:
        return self.store.account

    @property
    def lint(self) -> Lint:
        return self.store.lint

    @property
    def identity(self) -> str:
        """The same for two evaluations of the same rows."""
        return f'{self.store.folder.parent.name} {len(self._sequences)}'

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Batch]:
        for group in self._groups:
            yield collate([self.store.read(int(i)) for i in group])

    def _grouped(self, batch_size: int, max_tokens: int | None) -> list[np.ndarray]:
        """``batch_size`` sequences each, or as many as ``max_tokens`` allow."""
        if max_tokens is None:
            return [self._sequences[i : i + batch_size] for i in range(0, len(self._sequences), batch_size)]
        cuts, free = [], max_tokens
        for i, length in enumerate(self.store.lengths[self._sequences].tolist()):
            if i and length > free:
                cuts.append(i)
                free = max_tokens
            free -= length
        return np.split(self._sequences, cuts)

    def overlap(self, train: Source) -> lint.Finding | None:
        """Evaluation sequences that are trained on; None when training rows are not all known, or none is."""
        if not isinstance(train.feed, StoreFeed):
            return None
        found = lint.overlap(train.feed.store.digests, self.store.digests, self.store.origin)
        return found if found.count else None


def batches(
    rows: Dataset | Stream,
    encode: Encode,
    args: DataArgs,
    *,
    fingerprint: str,
    batch_size: int,
    accumulation: int = 1,
    epochs: float = 1.0,
    max_steps: int = -1,
    drop_last: bool = False,
    max_length: int | None = None,
    stop_ids: Sequence[int] = (),
    control: Sequence[str] = (),
) -> Source:
    """The optimizer steps of a run.

    Rows are tokenised into the store first, which the next run finds. When ``max_steps`` needs fewer rows than there
    are, and for streams, they are tokenised as training goes on; the steps are the same.

    Args:
        encode: a template's: Sample -> list[Encoded].
        fingerprint: changes whenever ``encode`` could give other tokens.
        batch_size, accumulation: items in a micro-batch, micro-batches in a step.
        max_steps: steps of the run; -1 means ``epochs``.
        drop_last: leave out the last micro-batch of an epoch when it is not full.
        max_length, stop_ids, control: what the lint must know of the template: where it cuts, which tokens end an
            answer, and which strings are its control tokens.

    Raises:
        DataError: too many rows cannot be used, or lint finds errors and ``args.lint`` is ``refuse``.
        ConfigError: flags that do not go together.
    """
    packing = _packing(args, max_length)
    examiner = Examiner(stop_ids=stop_ids, control=control, max_length=max_length)
    limits: dict[str, Any] = {'max_rejected': args.max_rejected, 'strict': args.strict}
    window = BLOCK if packing.length is None else min(max(WINDOW, 4 * packing.length), MOST)
    wanted = max_steps * batch_size * accumulation
    if isinstance(rows, Stream):
        feed: Feed = StreamFeed(rows, Encoding(encode, examiner), fingerprint, window=window, **limits)
    else:
        ordered = Rows(rows, seed=args.data_seed, shuffle=args.train_dataloader_shuffle, window=window)
        stored = (_folder(args) / store_key(rows, fingerprint, examiner) / 'tokens').exists()
        if max_steps > 0 and not stored and _suffice(rows, encode, packing, wanted):
            feed = LiveFeed(ordered, Encoding(encode, examiner), fingerprint, **limits)
        else:
            store = open_or_fill(rows, encode, fingerprint, folder=_folder(args), examiner=examiner, **limits)
            feed = StoreFeed(store, ordered, fingerprint)
    source = Source(
        feed,
        packing,
        batch_size=batch_size,
        accumulation=accumulation,
        epochs=epochs,
        max_steps=max_steps,
        max_tokens=args.max_tokens_per_batch,
        drop_last=drop_last,
        refuse=args.lint == 'refuse',
    )
    if isinstance(feed, StoreFeed):
        source.prepare()
    return source


def eval_batches(
    rows: Dataset,
    encode: Encode,
    args: DataArgs,
    *,
    fingerprint: str,
    batch_size: int,
    max_length: int | None = None,
    stop_ids: Sequence[int] = (),
    control: Sequence[str] = (),
) -> Evaluation:
    """The micro-batches of an evaluation, in the order of the rows. Arguments and errors as for ``batches``."""
    examiner = Examiner(stop_ids=stop_ids, control=control, max_length=max_length)
    limits: dict[str, Any] = {'max_rejected': args.max_rejected, 'strict': args.strict}
    store = open_or_fill(rows, encode, fingerprint, folder=_folder(args), examiner=examiner, **limits)
    return Evaluation(store, store.sequences(rows.order), batch_size=batch_size, max_tokens=args.max_tokens_per_batch)


def _packing(args: DataArgs, max_length: int | None) -> Packing:
    length = (args.packing_length or max_length) if args.packing else None
    if args.packing and not length:
        raise ConfigError('--packing true needs --packing_length, or --max_length')
    return Packing(length, args.packing_strategy, args.data_seed)


def _folder(args: DataArgs) -> Path:
    """Where token stores are kept."""
    from swift.core import cache

    return Path(args.store_dir).expanduser() if args.store_dir else cache.folder('tokens')


def _suffice(rows: Dataset, encode: Encode, packing: Packing, items: int) -> bool:
    """Whether ``items`` need fewer rows than an epoch has, so that each is tokenised at most once without a store.

    How many rows go into a pack is judged by the first few.
    """
    if packing.length is None:
        return items < len(rows)
    probe = Encoding(encode, Examiner())
    made = [
        each for i in range(min(PROBE, len(rows))) for each in probe.row(rows.origin(i), lambda i=i: rows.sample(i))
    ]
    mean = sum(map(len, made)) / max(probe.account.read, 1)
    return items * packing.length < mean * len(rows)
