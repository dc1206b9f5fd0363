"""Where answers go: the path of the result file, and the file itself, which is only ever appended to."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from swift.commands.configs import InferConfig
from swift.core import files
from swift.core.errors import ConfigError, LockedError
from swift.core.log import say
from swift.models.args import split_adapter

FLUSH = 10.0  # seconds after which answers are written although write_batch_size is not reached


def result_path(cfg: InferConfig) -> Path:
    """Where answers go: --result_path, or a new file beside the checkpoint, or under result/ for a model of a hub."""
    return Path(cfg.engine.result_path) if cfg.engine.result_path else new_path(cfg)


def new_path(cfg: InferConfig) -> Path:
    """A new file, where none is given."""
    chosen = split_adapter(cfg.model.adapters[0])[1] if cfg.model.adapters else cfg.model.model
    place = Path(chosen) if Path(chosen, 'args.json').is_file() else Path('result', Path(chosen).name)
    return place / 'infer_result' / f'{datetime.now():%Y%m%d-%H%M%S}.jsonl'


def rows_to_answer(cfg: InferConfig) -> tuple[Any, int]:
    """The dataset to answer, and how many of its rows.

    Raises:
        ConfigError: it is streamed.
    """
    from swift import data
    from swift.data.stream import Stream

    loaded = data.load(cfg.data, use_hf=cfg.model.use_hf, token=cfg.model.hub_token, answers=False)
    dataset = loaded.train if loaded.val is None else loaded.val
    if dataset is None or isinstance(dataset, Stream):
        raise ConfigError('--streaming: leave it out; infer reads rows as it goes')
    most = cfg.engine.val_dataset_sample
    return dataset, len(dataset) if most is None else min(len(dataset), most)


def write(cfg: InferConfig, answers: Iterable[dict[str, Any]], total: int, what: str) -> list[dict[str, Any]]:
    """Append ``answers`` to the result file as they come, under a progress bar; they are returned, too.

    Args:
        what: names them beside the bar.
    """
    from swift.data.progress import track

    path, rows = result_path(cfg), []
    say(f'{total} rows > {path}{", after the answers that it holds already" if path.is_file() else ""}')
    with Results(path, cfg.engine.write_batch_size) as results:
        for row in track(answers, what, total=total):
            rows.append(row)
            results.add(row)
    return rows


class Results:
    """Appends rows to a jsonl file, ``size`` at a time; what is left is written however the block ends.

    Raises:
        LockedError: another process appends to it.
    """

    def __init__(self, path: Path, size: int):
        self._path, self._size = path, size
        self._rows: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def __enter__(self) -> Results:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._held = open(self._path, 'a', encoding='utf-8')
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            raise LockedError(f'{self._path}: another process appends to it; give another --result_path') from None
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            self._write()

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._size or time.monotonic() - self._written > FLUSH:
            self._write()

    def _write(self) -> None:
        for row in self._rows:
            files.append(self._path, json.dumps(row, ensure_ascii=False))
        self._rows, self._written = [], time.monotonic()
