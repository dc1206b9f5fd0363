"""A batch of answers that goes on where it was stopped: kill -9 costs no more than the answers that were not written.

Every line of the result file says which batch it belongs to and its place in it::

    {..., "run": {"model": "5f1c...", "data": "90ab...", "settings": "77d0...", "row": 4, "of": 12}}

The same command goes on after the last line. A file whose batch is complete gets a new one after it; a file whose
batch is not, and is of another model, other data or other settings, is refused: answers are never mixed unseen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.commands.configs import InferConfig
from swift.commands.results import Results, new_path
from swift.core import files
from swift.core.errors import ConfigError
from swift.core.log import say
from swift.models.args import split_adapter

Row = dict[str, Any]
PARTS = {'model': 'another model or adapter', 'data': 'other data', 'settings': 'other settings'}
UNSEEN = {  # flags that change no answer
    'stream', 'max_batch_size', 'max_kv_tokens', 'prompt', 'images', 'result_path', 'write_batch_size',
    'val_dataset_sample', 'metric', 'backend_python', 'backend_timeout', 'max_length', 'reranker_use_activation',
}  # fmt: skip
SMALL = 64 << 20  # bytes; files of a model beside its weights are read whole


@dataclass
class Batch:
    """The rows of a dataset, the file of their answers, and those of ``earlier`` that it holds already."""

    path: Path
    run: dict[str, str]
    total: int
    earlier: list[Row]
    write_batch_size: int

    def write(self, answers: Iterable[Row], what: str) -> list[Row]:
        """Append the missing ``answers`` as they come, under a progress bar. Returns those of all rows."""
        from swift.data.progress import track

        rows, first = list(self.earlier), len(self.earlier)
        with Results(self.path, self.write_batch_size) as results:
            for i, row in enumerate(track(answers, what, total=self.total - first), first + 1):
                rows.append(row)
                results.add({**row, 'run': {**self.run, 'row': i, 'of': self.total}})
        return rows


def open_batch(cfg: InferConfig, dataset: Any, total: int) -> Batch:
    """The batch of the flags: a new one, or the one that was stopped.

    Raises:
        ConfigError: --result_path ends in the middle of another batch.
        LockedError: another process writes to it.
    """
    run = {'model': model_digest(cfg), 'data': _data(dataset, total), 'settings': _settings(cfg)}
    given = cfg.engine.result_path
    path = Path(given) if given else _unfinished(new_path(cfg), run, total)
    earlier = _earlier(path, run, total)
    if earlier:
        say(f'{path}: {len(earlier)} of {total} rows are answered; going on after them')
    else:
        holds = path.is_file() and path.stat().st_size
        say(f'{total} rows > {path}{", after the answers that it holds already" if holds else ""}')
    return Batch(path, run, total, earlier, cfg.engine.write_batch_size)


def _earlier(path: Path, run: dict[str, str], total: int) -> list[Row]:
    """The answers of this batch at the end of the file; [] where it ends with a whole batch, or with other lines."""
    lines = files.lines(path)
    last = _run(lines[-1]) if lines else None
    if last is None or last['row'] >= last['of']:
        return []
    if differing := [text for name, text in PARTS.items() if last[name] != run[name]]:
        raise ConfigError(
            f'--result_path {path} ends with {last["row"]} of {last["of"]} answers of a batch with '
            f'{" and ".join(differing)}. Give the flags of that one to finish it, another --result_path, or delete it'
        )
    first = _run(lines[-last['row']]) if last['row'] <= len(lines) else None
    if first is None or first['row'] != 1:
        raise ConfigError(f'--result_path {path}: lines of its last batch are missing; give another, or delete it')
    files.keep_lines(path, lambda line: True)  # a line that was torn would swallow the next one
    rows = [json.loads(line) for line in lines[-last['row'] :]]
    return [{name: value for name, value in row.items() if name != 'run'} for row in rows]


def _unfinished(path: Path, run: dict[str, str], total: int) -> Path:
    """The newest file beside ``path`` in which this very batch was stopped; ``path`` where there is none."""
    for other in sorted(path.parent.glob('*.jsonl'), reverse=True):
        lines = files.lines(other)
        last = _run(lines[-1]) if lines else None
        if last is not None and last['row'] < last['of'] and all(last[name] == run[name] for name in PARTS):
            return other
    return path


def _run(line: str) -> dict[str, Any] | None:
    """What a line says of its batch."""
    try:
        run = json.loads(line).get('run')
    except (ValueError, AttributeError):
        return None
    return run if isinstance(run, dict) and run.keys() >= {*PARTS, 'row', 'of'} else None


# ------------------------------------------------------------------------------------------------------ fingerprints
def model_digest(cfg: InferConfig) -> str:
    """Changes with the model, its tokenizer or template, and with the adapters."""
    from swift import hub, models
    from swift.train import fingerprint

    folders = [models.describe(cfg.model).path]
    for text in cfg.model.adapters:
        folders.append(hub.fetch(split_adapter(text)[1], use_hf=cfg.model.use_hf, token=cfg.model.hub_token))
    whole = hashlib.sha256()
    for folder in folders:
        whole.update(fingerprint.of_folder(folder).encode())
        for path in sorted(folder.iterdir()):
            if path.suffix in ('.json', '.jinja', '.model', '.txt') and path.stat().st_size < SMALL:
                whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def _data(dataset: Any, total: int) -> str:
    from swift.data.corpus import digest

    return digest(dataset.fingerprint(), dataset.order[:total].tobytes())[:16]


def _settings(cfg: InferConfig) -> str:
    """Changes with every flag that an answer depends on."""
    groups = [cfg.generation, cfg.template, cfg.engine]
    chosen = cfg.engine.infer_backend
    if chosen != 'native':
        groups.append(getattr(cfg, chosen))
    said = {name: value for group in groups for name, value in dataclasses.asdict(group).items() if name not in UNSEEN}
    said |= {'torch_dtype': cfg.model.torch_dtype, 'quant_bits': cfg.model.quant_bits}
    template = cfg.template.template
    if template and Path(template).is_file():
        said['template'] = Path(template).read_text(encoding='utf-8')
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]
