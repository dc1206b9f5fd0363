"""``--dataset`` and its flags as rows: find the files, say how they are read, cut off the evaluation rows, mix.

load(args) -> Loaded(train, val)             what commands call: lazy, rows are judged when they are tokenised
load_dataset(datasets, ...) -> (train, val)  the established function: every row is read once, bad ones are left out
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swift.core.errors import ConfigError, DataError, RowError, did_you_mean
from swift.data import catalog, mix, spec
from swift.data.account import Tally
from swift.data.args import DataArgs
from swift.data.catalog import DatasetMeta
from swift.data.convert import Reading
from swift.data.corpus import Corpus, Part, Recipe, names_for
from swift.data.dataset import Dataset, checked
from swift.data.folder import find_files
from swift.data.stream import Stream
from swift.data.tables import Memory, Table, open_table

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """Rows for training and for evaluation; None where the flags name none."""

    train: Dataset | Stream | None
    val: Dataset | None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The parts that one ``--dataset`` item stands for, and how many of their rows."""

    parts: list[Part]
    count: int | None


def load(args: DataArgs, *, use_hf: bool = False, token: str | None = None, answers: bool = True) -> Loaded:
    """Find the rows of a run. Files are indexed, not read; with ``streaming`` not even that.

    Args:
        use_hf: ids without ``hf::`` or ``ms::`` are of Hugging Face.
        answers: every row must have something to learn from; False for prompts only.

    Raises:
        ConfigError: a dataset cannot be understood.
        DataError: it is not there, or its files cannot be read.
    """
    _check_mixing(args)
    for info in args.custom_dataset_info:
        catalog.register_dataset_info(info)
    reading = Reading(
        _columns(args.columns), not args.disable_auto_column_mapping, answers, not args.remove_unused_columns
    )
    find = lambda typed: [_find(each, reading, args, use_hf=use_hf, token=token) for each in typed]
    chosen, val = find(args.dataset), find(args.val_dataset)
    _check_columns(reading.columns, [part for each in chosen + val for part in each.parts])
    evaluation = _concatenated(val, args, shuffle=args.val_dataset_shuffle)
    if not chosen:
        return Loaded(None, evaluation)
    if args.streaming:
        return Loaded(_stream(chosen, args), evaluation)
    ratio = 0.0 if val else args.split_dataset_ratio
    train, cut = _split(chosen, args, ratio)
    return Loaded(train, evaluation or cut)


def load_dataset(
    datasets: Any,
    *,
    split_dataset_ratio: float = 0.0,
    seed: int = 42,
    num_proc: int = 1,
    load_from_cache_file: bool = True,
    shuffle: bool = False,
    streaming: bool = False,
    interleave_prob: list[float] | None = None,
    stopping_strategy: str = 'first_exhausted',
    shuffle_buffer_size: int = 1000,
    use_hf: bool | None = None,
    hub_token: str | None = None,
    strict: bool = False,
    download_mode: str = 'reuse_dataset_if_exists',
    columns: dict | str | None = None,
    remove_unused_columns: bool = True,
    disable_auto_column_mapping: bool = False,
    model_name: str | Sequence[str] | None = None,
    model_author: str | Sequence[str] | None = None,
    max_rejected: float = 0.01,
) -> tuple[Any, Dataset | None]:
    """Datasets by name, path or value, as ``(train, val)``; val is None when nothing is cut off for it.

    ``datasets`` is one item or a list of them: text as ``--dataset`` takes it, a list of rows, or an object with a
    length and items that are rows (``datasets.Dataset``). Rows that cannot be read are left out and named in a warning;
    more than ``max_rejected`` of them raise DataError. ``num_proc`` and ``load_from_cache_file`` are accepted: rows are
    read where they lie. Prompts without answers are rows too.
    """
    items = _items(datasets)
    args = DataArgs(
        dataset=items,
        split_dataset_ratio=split_dataset_ratio,
        data_seed=seed,
        dataset_shuffle=shuffle,
        streaming=streaming,
        interleave_prob=interleave_prob,
        stopping_strategy=stopping_strategy,  # type: ignore[arg-type]
        shuffle_buffer_size=shuffle_buffer_size,
        columns=columns,
        strict=strict,
        max_rejected=max_rejected,
        download_mode=download_mode,  # type: ignore[arg-type]
        remove_unused_columns=remove_unused_columns,
        disable_auto_column_mapping=disable_auto_column_mapping,
        model_name=[model_name] if isinstance(model_name, str) else model_name,  # type: ignore[arg-type]
        model_author=[model_author] if isinstance(model_author, str) else model_author,  # type: ignore[arg-type]
    )
    loaded = load(args, use_hf=bool(use_hf), token=hub_token, answers=False)
    if isinstance(loaded.train, Stream):
        return loaded
    kept = []
    for dataset in loaded:
        if dataset is not None:
            dataset, account = checked(dataset, max_rejected=max_rejected, strict=strict)
            if account.rejected:
                logger.warning('%s; the first: %s', account, account.rejected[0])
        kept.append(dataset)
    return kept[0], kept[1]


# --------------------------------------------------------------------------------------------------------- finding
def _find(typed: Any, reading: Reading, args: DataArgs, *, use_hf: bool, token: str | None) -> _Chosen:
    """One item of ``--dataset``."""
    if not isinstance(typed, str):
        return _Chosen([Part('<memory>', [Memory(typed)], Recipe(reading))], None)
    wanted = spec.parse(typed)
    path = Path(wanted.name).expanduser()
    if path.exists():
        return _Chosen([Part(wanted.name, _open(path, wanted.subsets), Recipe(reading))], wanted.count)
    meta = catalog.find(wanted.name)
    hub = wanted.use_hf if wanted.use_hf is not None else use_hf
    if meta is None:
        if '/' not in wanted.name or path.suffix or wanted.name.startswith(('.', '/', '~')):
            raise DataError(
                f'--dataset {typed}: no such file, folder or registered dataset{catalog.nearest(wanted.name)} '
                'Hub ids look like owner/name'
            )
        meta = DatasetMeta(**{'hf_dataset_id' if hub else 'ms_dataset_id': wanted.name})
    return _Chosen(_of_meta(meta, wanted, reading, args, use_hf=hub, token=token), wanted.count)


def _of_meta(
    meta: DatasetMeta, wanted: spec.Spec, reading: Reading, args: DataArgs, *, use_hf: bool, token: str | None
) -> list[Part]:
    """Parts of a dataset that is known by name: one for each subset, since each may have its own columns."""
    names = names_for(args.model_name, args.model_author) if meta.fill else None
    parts = []
    where = _where(meta, wanted, args, use_hf=use_hf, token=token)
    for name in meta.chosen(wanted.subsets) or [None]:
        subset = meta.subset(name or 'default')
        own = {old.lower(): new for old, new in (subset.columns or {}).items()}
        recipe = Recipe(replace(reading, columns={**own, **reading.columns}), _function(subset.preprocess_func), names)
        subsets = (name,) if name and isinstance(where, Path) and where.is_dir() else ()
        for split in subset.split or ('train',):
            tables = _open(where, subsets, split) if isinstance(where, Path) else [Memory(where, wanted.name)]
            parts.append(Part(wanted.typed or wanted.name, tables, recipe))
    return parts


def _where(meta: DatasetMeta, wanted: spec.Spec, args: DataArgs, *, use_hf: bool, token: str | None) -> Any:
    """The folder or file of a named dataset, fetched if need be, or its rows."""
    from swift import hub

    if meta.rows is not None:
        made = meta.rows()
        return Path(made) if isinstance(made, str | Path) else list(made)
    if meta.dataset_path is not None and wanted.use_hf is None and meta.is_local(wanted.name):
        path = Path(meta.dataset_path).expanduser()
        if not path.exists():
            raise DataError(f'dataset {wanted.name}: its dataset_path {path} is not there')
        if meta.ms_dataset_id:
            logger.info('%s: the rows shipped here (ms::%s takes those of the hub)', wanted.name, meta.ms_dataset_id)
        return path
    if args.download_mode == 'force_redownload':
        raise ConfigError('--download_mode force_redownload: not built yet; remove the downloaded folder instead')
    hugging = use_hf if meta.ms_dataset_id and meta.hf_dataset_id else meta.ms_dataset_id is None
    name = meta.hf_dataset_id if hugging else meta.ms_dataset_id
    revision = meta.hf_revision if hugging else meta.ms_revision
    return hub.fetch(str(name), kind='dataset', revision=revision, use_hf=hugging, token=token)


def _function(function: Any) -> Callable[[dict], dict | None] | None:
    """A dataset's own preprocessing as a function of a row."""
    return getattr(function, 'preprocess', function)


def _open(path: Path, subsets: Sequence[str] = (), split: str = 'train') -> list[Table]:
    if path.is_dir():
        return [open_table(each) for each in find_files(path, subsets=subsets, split=split)]
    if subsets:
        raise DataError(f'{path} is a file and has no subsets ({", ".join(subsets)})')
    return [open_table(path)]


def _items(datasets: Any) -> list[Any]:
    """The argument of load_dataset as a list of datasets."""
    if not isinstance(datasets, list | tuple) or (datasets and all(isinstance(each, Mapping) for each in datasets)):
        datasets = [datasets]
    return [str(each) if isinstance(each, Path) else each for each in datasets]


# ---------------------------------------------------------------------------------------------------------- mixing
def _split(chosen: Sequence[_Chosen], args: DataArgs, ratio: float) -> tuple[Dataset, Dataset | None]:
    """Sample each dataset, cut its evaluation rows off, and mix the rest."""
    corpus, ranges = _numbered(chosen)
    trains, vals = [], []
    for i, (each, rows) in enumerate(zip(chosen, ranges, strict=True)):
        key = (args.data_seed, i)
        unique = min(each.count or len(rows), len(rows))
        different = rows[mix.sample(len(rows), unique, shuffle=args.dataset_shuffle, key=key)]
        train, val = mix.split(different, ratio, shuffle=args.dataset_shuffle, key=key)
        wanted = None if each.count is None else max(each.count - len(val), 0)
        trains.append(train[mix.sample(len(train), wanted, shuffle=args.dataset_shuffle, key=(*key, 1))])
        vals.append(val)
    order = _mixed(trains, args)
    if args.dataset_shuffle:
        order = order[mix.permutation(len(order), mix.MIX, args.data_seed)]
    val = np.concatenate(vals)
    tally = Tally(len(np.unique(np.concatenate([order, val]))))
    return Dataset(corpus, order, tally=tally), Dataset(corpus, val, tally=tally) if len(val) else None


def _concatenated(chosen: Sequence[_Chosen], args: DataArgs, *, shuffle: bool) -> Dataset | None:
    """Sample each dataset and lay them end to end."""
    if not chosen:
        return None
    corpus, ranges = _numbered(chosen)
    parts = [
        rows[mix.sample(len(rows), each.count, shuffle=shuffle, key=(args.data_seed, i))]
        for i, (each, rows) in enumerate(zip(chosen, ranges, strict=True))
    ]
    dataset = Dataset(corpus, np.concatenate(parts))
    return dataset.shuffle(args.data_seed) if shuffle else dataset


def _numbered(chosen: Sequence[_Chosen]) -> tuple[Corpus, list[np.ndarray]]:
    """A corpus of all parts, and the row numbers of each item."""
    corpus = Corpus([part for each in chosen for part in each.parts])
    sizes, ranges, start = iter(corpus.sizes), [], 0
    for each in chosen:
        count = sum(next(sizes) for _ in each.parts)
        if not count:
            raise DataError(f'{each.parts[0].name}: there are no rows')
        ranges.append(np.arange(start, start + count))
        start += count
    return corpus, ranges


def _mixed(lists: list[np.ndarray], args: DataArgs) -> np.ndarray:
    if not args.interleave_prob:
        return np.concatenate(lists)
    drawn, nth = mix.interleave(
        [len(rows) for rows in lists],
        args.interleave_prob,
        all_exhausted=args.stopping_strategy == 'all_exhausted',
        key=(args.data_seed,),
    )
    order = np.empty(len(drawn), np.int64)
    for i, rows in enumerate(lists):
        order[drawn == i] = rows[nth[drawn == i]]
    return order


def _stream(chosen: Sequence[_Chosen], args: DataArgs) -> Stream:
    if args.split_dataset_ratio and not args.val_dataset:
        raise ConfigError(
            '--split_dataset_ratio needs the number of rows, which --streaming never learns; name evaluation rows with '
            '--val_dataset'
        )
    return Stream(
        [each.parts for each in chosen],
        counts=[each.count for each in chosen],
        seed=args.data_seed,
        buffer=args.shuffle_buffer_size if args.dataset_shuffle else 0,
        probabilities=args.interleave_prob,
        all_exhausted=args.stopping_strategy == 'all_exhausted',
    )


# -------------------------------------------------------------------------------------------------------- checking
def _check_mixing(args: DataArgs) -> None:
    problems = []
    if (weights := args.interleave_prob) is not None:
        if len(weights) != len(args.dataset):
            problems.append(f'--interleave_prob: {len(weights)} numbers for {len(args.dataset)} datasets')
        if any(not each > 0 for each in weights) or abs(sum(weights) - 1) > 1e-6:
            problems.append(f'--interleave_prob {weights}: probabilities are above 0 and sum to 1')
    if not 0 <= args.split_dataset_ratio < 1:
        problems.append(f'--split_dataset_ratio {args.split_dataset_ratio}: expected 0 or more and less than 1')
    if problems:
        raise ConfigError(problems)


def _columns(columns: Mapping[str, str] | str | None) -> dict[str, str]:
    """``--columns`` as {old name in lower case: new name}."""
    if isinstance(columns, str):
        try:
            columns = json.loads(columns)
        except ValueError as error:
            raise ConfigError(f'--columns {columns!r} is not JSON: {error}') from None
    if columns is not None and not isinstance(columns, Mapping):
        raise ConfigError(f'--columns: expected an object like {{"old": "query"}}, got {columns!r}')
    return {str(old).lower(): str(new) for old, new in (columns or {}).items()}


def _check_columns(columns: Mapping[str, str], parts: Sequence[Part]) -> None:
    """Refuse a renamed column that the first row of no table has: it is a slip of the pen."""
    if not columns:
        return
    seen: set[str] = set()
    for part in parts:
        for table in part.tables:
            block = next(table.scan(), None)
            if block is not None and len(block.starts):
                try:
                    row = table.read(block.handle(0))
                except RowError:
                    return  # no telling; the row is accounted for later
                seen |= {str(name).lower() for name in row} if isinstance(row, Mapping) else set()
    for old in columns:
        if seen and old not in seen:
            names = ', '.join(sorted(seen))
            raise ConfigError(f'--columns: no dataset has a column {old!r}{did_you_mean(old, seen)} Columns: {names}')
