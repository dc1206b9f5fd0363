"""Datasets that have a name: shipped ones, public ones (catalog.yaml) and those that users register.

    @DATASETS.register('my-rows')
    def my_rows():                     # a path, a list of rows, or an iterable of them
        return [{'query': '...', 'response': '...'}]

    register_dataset(DatasetMeta(ms_dataset_id='owner/name', columns={'text1': 'query'}))

An entry is a DatasetMeta or a function like the one above. ``--custom_dataset_info x.json`` reads entries from JSON.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from swift.core.errors import ConfigError, did_you_mean
from swift.core.registry import Registry

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class SubsetDataset:
    """A subset with its own columns, splits or preprocessing."""

    subset: str
    split: Sequence[str] | None = None
    columns: Mapping[str, str] | None = None
    preprocess_func: Any = None
    is_weak_subset: bool = False
    """Left out of ``:all``."""


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """Where a dataset is and how its rows are read. Only one of ids, path and ``rows`` need be there."""

    ms_dataset_id: str | None = None
    hf_dataset_id: str | None = None
    dataset_path: str | None = None
    dataset_name: str | None = None
    ms_revision: str | None = None
    hf_revision: str | None = None
    rows: Callable[[], Any] | None = None
    """Makes the rows: returns a path, or an iterable of rows."""
    subsets: Sequence[str | SubsetDataset] = ()
    split: Sequence[str] = ('train',)
    columns: Mapping[str, str] = field(default_factory=dict)
    preprocess_func: Any = None
    """A function row -> row (None leaves the row out), or an object with a method ``preprocess`` that does it."""
    fill: bool = False
    """Replace {{NAME}} and {{AUTHOR}} by --model_name and --model_author."""
    tags: Sequence[str] = ()
    help: str = ''

    def __post_init__(self) -> None:
        if not any((self.ms_dataset_id, self.hf_dataset_id, self.dataset_path, self.rows)):
            raise ConfigError(f'dataset {self.dataset_name!r}: it needs a hub id, a dataset_path or rows')

    @property
    def names(self) -> list[str]:
        """Every name that finds it."""
        return list(dict.fromkeys(filter(None, (self.dataset_name, self.ms_dataset_id, self.hf_dataset_id))))

    def is_local(self, name: str) -> bool:
        """Whether ``name`` means its path, not a hub's dataset: hub ids do, but for the one that it is called by."""
        if self.dataset_path is None:
            return False
        return _plain(name) == _plain(self.dataset_name or '') or not (self.ms_dataset_id or self.hf_dataset_id)

    def subset(self, name: str) -> SubsetDataset:
        """A subset by name, with the dataset's own answers where it has none."""
        known = [each if isinstance(each, SubsetDataset) else SubsetDataset(subset=each) for each in self.subsets]
        found = next((each for each in known if each.subset == name), SubsetDataset(subset=name))
        return SubsetDataset(
            subset=name,
            split=found.split or self.split,
            columns=self.columns if found.columns is None else found.columns,
            preprocess_func=found.preprocess_func or self.preprocess_func,
        )

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """The subsets that are meant: those named, all strong ones for ``all``, else the default."""
        known = [each for each in self.subsets if isinstance(each, str) or not each.is_weak_subset]
        names = [each if isinstance(each, str) else each.subset for each in known]
        if list(wanted) == ['all']:
            return names
        return list(wanted) or (['default'] if 'default' in names else names)


DATASETS: Registry[DatasetMeta | Callable[[], Any]] = Registry('dataset')


def register_dataset(meta: DatasetMeta, *, exist_ok: bool = False) -> None:
    """Register a dataset under each of its names."""
    for name in meta.names:
        DATASETS.add(name, meta, replace=exist_ok)


def find(name: str) -> DatasetMeta | None:
    """The dataset of that name; hyphens and underscores are the same. None when no one has registered it."""
    if name in DATASETS:
        entry = DATASETS[name]
        return entry if isinstance(entry, DatasetMeta) else DatasetMeta(dataset_name=name, rows=entry)
    return _shipped().get(_plain(name))


def names() -> list[str]:
    """Names of all datasets that are known."""
    return sorted({*DATASETS, *(name for meta in _shipped().values() for name in meta.names)})


def nearest(name: str) -> str:
    """A hint at the nearest known names, or nothing."""
    return did_you_mean(name, names())


def register_dataset_info(info: str | Path | Sequence[Mapping[str, Any]] | None = None) -> list[DatasetMeta]:
    """Register what a dataset_info.json (or its decoded list) describes; None does nothing."""
    if info is None:
        return []
    if isinstance(info, str | Path):
        where, base = str(info), Path(info).parent
        try:
            entries = json.loads(Path(info).read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise ConfigError(f'--custom_dataset_info {info}: {error}') from None
    else:
        where, base, entries = 'dataset_info', Path(), info
    if not isinstance(entries, list | tuple):
        raise ConfigError(f'--custom_dataset_info {where}: expected a list of datasets')
    metas = [_from_info(entry, f'{where}[{i}]', base) for i, entry in enumerate(entries)]
    for meta in metas:
        register_dataset(meta, exist_ok=True)
    return metas


# ---------------------------------------------------------------------------------------------------------- reading
INFO_KEYS = frozenset(each.name for each in fields(DatasetMeta)) - {'rows', 'preprocess_func'}


def _from_info(entry: Any, where: str, base: Path) -> DatasetMeta:
    if not isinstance(entry, Mapping):
        raise ConfigError(f'--custom_dataset_info {where}: expected an object')
    for key in entry:
        if key not in INFO_KEYS:
            raise ConfigError(f'--custom_dataset_info {where}: unknown key {key!r}{did_you_mean(key, INFO_KEYS)}')
    values = dict(entry)
    if path := values.get('dataset_path'):
        values['dataset_path'] = str(base / path) if not Path(path).exists() else path
        values.setdefault('dataset_name', path)
    values['subsets'] = [each if isinstance(each, str) else SubsetDataset(**each) for each in values.get('subsets', [])]
    if isinstance(values.get('split'), str):
        values['split'] = [values['split']]
    return DatasetMeta(**values)


@functools.cache
def _shipped() -> dict[str, DatasetMeta]:
    """catalog.yaml by each name."""
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    metas = [_from_catalog(entry) for entry in yaml.load((HERE / 'catalog.yaml').read_text(encoding='utf-8'), loader)]
    return {_plain(name): meta for meta in metas for name in meta.names}


def _from_catalog(entry: Mapping[str, Any]) -> DatasetMeta:
    subsets = [
        each if isinstance(each, str) else SubsetDataset(subset=each['name'], columns=each.get('columns'))
        for each in entry.get('subsets', ())
    ]
    return DatasetMeta(
        ms_dataset_id=entry.get('ms'),
        hf_dataset_id=entry.get('hf'),
        dataset_name=entry.get('name'),
        dataset_path=str(HERE / entry['path']) if 'path' in entry else None,
        subsets=subsets,
        columns=entry.get('columns', {}),
        fill=entry.get('fill', False),
        tags=entry.get('tags', ()),
        help=entry.get('help', ''),
    )


def _plain(name: str) -> str:
    return name.replace('_', '-') if '/' not in name else name
