"""What a run reports: a console line, a line of logging.jsonl, trackers, and plots at the end.

A tracker is anything with ``log(record)`` and ``close()``. A record is a flat dict of numbers and short texts under
the ecosystem's established names (``loss``, ``grad_norm``, ``learning_rate``, ``global_step/max_steps``, ...).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO

from swift.core import files
from swift.core.errors import ConfigError, need

Record = dict[str, Any]


class Tracker(Protocol):
    """Takes the records of a run."""

    def log(self, step: int, record: Record) -> None: ...
    def close(self) -> None: ...


class Journal:
    """logging.jsonl: one JSON object a line, appended. Always there."""

    def __init__(self, path: Path):
        self.path = path

    def log(self, step: int, record: Record) -> None:
        files.append(self.path, json.dumps({'step': step, **record}, ensure_ascii=False))

    def close(self) -> None:
        pass


# Columns of the console line: record key -> (heading, width, format)
COLUMNS: dict[str, tuple[str, int, Callable[[Any], str]]] = {
    'global_step/max_steps': ('step', 11, str),
    'loss': ('loss', 8, '{:.4f}'.format),
    'token_acc': ('acc', 6, '{:.3f}'.format),
    'seq_acc': ('acc', 6, '{:.3f}'.format),
    'acc': ('acc', 6, '{:.3f}'.format),
    'accuracy': ('acc', 6, '{:.3f}'.format),
    'rewards/accuracies': ('acc', 6, '{:.3f}'.format),
    'margin': ('margin', 7, '{:.3f}'.format),
    'rewards/margins': ('margin', 7, '{:.3f}'.format),
    'kl': ('kl', 7, '{:.3f}'.format),
    'mrr': ('mrr', 6, '{:.3f}'.format),
    'grad_norm': ('grad norm', 9, '{:.3g}'.format),
    'learning_rate': ('lr', 8, '{:.2e}'.format),
    'tokens/s': ('tokens/s', 9, '{:,.0f}'.format),
    'memory(GiB)': ('GiB', 6, '{:.2f}'.format),
    'elapsed_time': ('elapsed', 8, str),
    'remaining_time': ('left', 8, str),
}
EVAL_COLUMNS = {
    'global_step/max_steps': COLUMNS['global_step/max_steps'],
    'eval_loss': ('eval loss', 10, '{:.4f}'.format),
    'eval_token_acc': ('eval acc', 9, '{:.3f}'.format),
    'eval_seq_acc': ('eval acc', 9, '{:.3f}'.format),
    'eval_acc': ('eval acc', 9, '{:.3f}'.format),
    'eval_accuracy': ('eval acc', 9, '{:.3f}'.format),
    'eval_rewards/accuracies': ('eval acc', 9, '{:.3f}'.format),
    'eval_margin': ('eval margin', 11, '{:.3f}'.format),
    'eval_rewards/margins': ('eval margin', 11, '{:.3f}'.format),
    'eval_f1': ('eval f1', 9, '{:.3f}'.format),
    'eval_pearson': ('eval pearson', 9, '{:.3f}'.format),
    'eval_spearman_cosine': ('eval spearman', 9, '{:.3f}'.format),
    'eval_mrr': ('eval mrr', 9, '{:.3f}'.format),
    'eval_ndcg': ('eval ndcg', 9, '{:.3f}'.format),
}


class Console:
    """One aligned line per logged step."""

    def __init__(self, out: TextIO | None = None):
        self.out = out or sys.stdout
        self.columns: dict[str, tuple[str, int, Callable[[Any], str]]] = {}

    def log(self, step: int, record: Record) -> None:
        if 'eval_loss' in record:
            text = '  '.join(
                f'{heading} {show(record[key])}' for key, (heading, _, show) in EVAL_COLUMNS.items() if key in record
            )
            print(f'  {text}', file=self.out, flush=True)
        elif 'loss' in record:
            self._train_line(record)

    def _train_line(self, record: Record) -> None:
        if not self.columns:
            self.columns = {key: column for key, column in COLUMNS.items() if key in record}
            print(' '.join(heading.rjust(width) for heading, width, _ in self.columns.values()), file=self.out)
        cells = [
            (show(record[key]) if key in record else '-').rjust(width) for key, (_, width, show) in self.columns.items()
        ]
        print(' '.join(cells), file=self.out, flush=True)

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files under ``runs/``."""

    def __init__(self, folder: Path):
        need('tensorboard')
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def log(self, step: int, record: Record) -> None:
        for key, value in record.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(_scalar_name(key), value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases; offline when WANDB_MODE says so or no key is known."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any]):
        wandb = need('wandb')
        os.environ.setdefault('WANDB_SILENT', 'true')
        known = os.environ.get('WANDB_API_KEY') or Path('~/.netrc').expanduser().exists()
        mode = os.environ.get('WANDB_MODE') or ('online' if known else 'offline')
        project = os.environ.get('WANDB_PROJECT', 'swift')
        self.run = wandb.init(project=project, name=name, dir=str(folder), config=config, mode=mode)

    def log(self, step: int, record: Record) -> None:
        self.run.log({_scalar_name(key): value for key, value in record.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class SwanLab:
    """SwanLab, in the cloud or in a local folder."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any], settings: dict[str, Any]):
        # its board's version check raises a false alarm in local mode (swanlab 0.10)
        os.environ.setdefault('SWANLAB_SKIP_SWANBOARD_VERSION_CHECK', '1')
        swanlab = need('swanlab')
        if token := settings.get('token'):
            swanlab.login(api_key=token)
        self.swanlab = swanlab
        swanlab.init(
            project=settings['project'],
            workspace=settings.get('workspace'),
            experiment_name=settings.get('exp_name') or name,
            mode=settings['mode'],
            logdir=str(folder / 'swanlab'),
            config=config,
        )

    def log(self, step: int, record: Record) -> None:
        numbers = {_scalar_name(k): v for k, v in record.items() if isinstance(v, int | float)}
        self.swanlab.log(numbers, step=step)

    def close(self) -> None:
        self.swanlab.finish()


def _scalar_name(key: str) -> str:
    """Trackers group by the text before a slash."""
    return f'eval/{key[5:]}' if key.startswith('eval_') else f'train/{key.replace("/", "_per_")}'


logger = logging.getLogger(__name__)

NAMES = ('tensorboard', 'wandb', 'swanlab')


def trackers(
    names: list[str], run_dir: Path, *, name: str, logging_dir: Path, config: dict[str, Any], swanlab: dict[str, Any]
) -> list[Tracker]:
    """The trackers that ``--report_to`` names; ``all`` is every one, ``none`` none.

    TensorBoard, the default, is left out with a word when it is not installed; the others must be there.
    """
    if 'none' in names:
        return []
    wanted = NAMES if 'all' in names else tuple(names)
    if unknown := sorted(set(wanted) - set(NAMES)):
        raise ConfigError(f'--report_to {" ".join(unknown)}: unknown; known are {", ".join(NAMES)}, all and none')
    make: dict[str, Callable[[], Tracker]] = {
        'tensorboard': lambda: TensorBoard(logging_dir),
        'wandb': lambda: Wandb(run_dir, name, config),
        'swanlab': lambda: SwanLab(run_dir, name, config, swanlab),
    }
    if wanted == ('tensorboard',) and find_spec('tensorboard') is None:
        logger.warning(
            'no TensorBoard, as it is not installed (pip install tensorboard); logging.jsonl has all numbers'
        )
        return []
    return [make[each]() for each in wanted]


def plot(journal: Path, folder: Path, *, smooth: float = 0.9) -> list[Path]:
    """Draw each number of logging.jsonl over the steps as a PNG, raw and smoothed. Returns the files written."""
    matplotlib = need('matplotlib')
    matplotlib.use('Agg')
    from matplotlib import pyplot

    series: dict[str, list[tuple[int, float]]] = {}
    for line in files.lines(journal):
        record = json.loads(line)
        for key in ('loss', 'token_acc', 'grad_norm', 'learning_rate', 'eval_loss', 'eval_token_acc'):
            if key in record:
                series.setdefault(key, []).append((record['step'], record[key]))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key, points in series.items():
        steps, values = zip(*points, strict=True)
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        axes.plot(steps, values, alpha=0.35, label=key)
        axes.plot(steps, _smoothed(values, smooth), label=f'{key}, smoothed')
        axes.set_xlabel('step')
        axes.legend()
        axes.grid(alpha=0.3)
        path = folder / f'train_{key}.png' if not key.startswith('eval_') else folder / f'{key}.png'
        figure.savefig(path, dpi=110, bbox_inches='tight')
        pyplot.close(figure)
        written.append(path)
    return written


def _smoothed(values: tuple[float, ...], weight: float) -> list[float]:
    """Exponential moving average, corrected for its start as in Adam."""
    out, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = weight * mean + (1 - weight) * value
        out.append(mean / (1 - weight**count))
    return out
