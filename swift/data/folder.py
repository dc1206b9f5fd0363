"""Which files of a folder, or of a downloaded dataset, hold the rows that are meant.

Hubs and people lay datasets out alike: ``train.jsonl``, ``data/train-00000-of-00002.parquet``, a folder for each
subset, or a ``configs`` list in README.md's front matter that names subsets and files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from swift.core.errors import DataError, did_you_mean
from swift.core.files import SafePath
from swift.data.tables import TABLES

SPLITS = {
    'train': ('train', 'training'),
    'test': ('test', 'testing', 'eval', 'evaluation'),
    'validation': ('validation', 'valid', 'val', 'dev'),
}
NOT_ROWS = {
    'dataset_infos.json',
    'dataset_info.json',
    'config.json',
    'configuration.json',
    'manifest.json',
    'license.txt',
}
NOT_ROWS |= {'readme.txt', 'requirements.txt', 'state.json'}


def find_files(folder: Path, *, subsets: Sequence[str] = (), split: str = 'train') -> list[Path]:
    """Files of ``split`` (all files where none is named after a split), of ``subsets`` if given, in order of name.

    Raises:
        DataError: nothing there, or a subset that is not.
    """
    if configs := _configs(folder):
        names = _chosen(list(configs), subsets or _default(list(configs), folder), folder)
        return _of_configs(folder, [configs[name] for name in names], split)
    files = _tables(folder)
    if not files:
        raise DataError(f'{folder} holds no rows: no file there ends in {", ".join(TABLES)}')
    if subsets and list(subsets) != ['default']:
        files = _of_subsets(folder, files, subsets)
    return _of_split(folder, files, split)


def _tables(folder: Path) -> list[Path]:
    """Files that may hold rows; hidden files and folders and what hubs put beside the rows are left out."""
    named = [path for path in sorted(folder.rglob('*')) if path.suffix.lower() in TABLES]
    hidden = lambda path: any(part.startswith(('.', '__')) for part in path.relative_to(folder).parts)
    return [path for path in named if path.is_file() and path.name.lower() not in NOT_ROWS and not hidden(path)]


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Files named after the split; if none is, those named after no other split; if none, all."""
    named = [path for path in files if _split_of(folder, path) == split]
    unnamed = [path for path in files if _split_of(folder, path) is None]
    if split != 'train' and not named:
        raise DataError(f'{folder} has no files of the split {split!r}')
    return named or unnamed or files


def _split_of(folder: Path, path: Path) -> str | None:
    """The split that a file's name, or the folder it is in, speaks of."""
    for part in reversed(path.relative_to(folder).with_suffix('').parts):
        words = re.split(r'[^a-z]+', part.lower())
        for split, names in SPLITS.items():
            if any(name in words for name in names):
                return split
    return None


def _of_subsets(folder: Path, files: list[Path], subsets: Sequence[str]) -> list[Path]:
    """Files inside a folder, or beginning with a name, that is the subset's."""
    names: dict[str, list[Path]] = {}
    for path in files:
        parts = path.relative_to(folder).with_suffix('').parts
        for part in {*parts, re.split(r'[-.]', parts[-1])[0]}:
            names.setdefault(part, []).append(path)
    return sorted({path for name in _chosen(list(names), subsets, folder) for path in names[name]})


def _chosen(known: list[str], wanted: Sequence[str], folder: Path) -> list[str]:
    if list(wanted) == ['all']:
        return known
    for name in wanted:
        if name not in known:
            raise DataError(
                f'{folder} has no subset {name!r}{did_you_mean(name, known)} Known: {", ".join(sorted(known))}'
            )
    return list(wanted)


# ----------------------------------------------------------------------------------------------- README.md's configs
def _default(names: list[str], folder: Path) -> list[str]:
    """The subset that is meant when none is named."""
    if len(names) == 1:
        return names
    if 'default' in names:
        return ['default']
    raise DataError(f'{folder} has several subsets: {", ".join(names)}. Name one (path:{names[0]}) or all (path:all)')


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    """``configs`` of README.md's front matter by name; empty if there is none."""
    readme = folder / 'README.md'
    if not readme.is_file():
        return {}
    found = re.match(r'---\s*\n(.*?)\n---\s*(\n|$)', readme.read_text(encoding='utf-8', errors='replace'), re.DOTALL)
    try:
        front = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    configs = front.get('configs') if isinstance(front, dict) else None
    if not isinstance(configs, list):
        return {}
    return {
        each.get('config_name', 'default'): each for each in configs if isinstance(each, dict) and 'data_files' in each
    }


def _of_configs(folder: Path, configs: list[dict[str, Any]], split: str) -> list[Path]:
    files: list[Path] = []
    for config in configs:
        data_files = config['data_files']
        patterns: list[str] = []
        for each in data_files if isinstance(data_files, list) else [data_files]:
            if isinstance(each, dict):
                if each.get('split') == split:
                    path = each.get('path', [])
                    patterns += path if isinstance(path, list) else [path]
            else:
                patterns.append(each)
        for pattern in patterns:
            inside = '/'.join((config.get('data_dir', ''), pattern)).strip('/')
            SafePath(folder).join(re.sub(r'[*?\[\]]', '_', inside))  # a pattern may not climb out of the folder
            files += sorted(path for path in folder.glob(inside) if path.is_file())
    if not files:
        raise DataError(f'{folder}: README.md names no files of the split {split!r} that are there')
    return files
