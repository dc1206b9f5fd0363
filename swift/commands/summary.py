"""The first and last lines of a training run: what will happen, and what came of it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.core import files
from swift.core.errors import SwiftError
from swift.core.log import get_logger, say

if TYPE_CHECKING:
    from swift.commands.prepare import Prepared
    from swift.core.types import ModelInfo
    from swift.parallel.one_device import TorchBackend
    from swift.train.trainer import Pace, Progress

logger = get_logger(__name__)


def data(source: Any, evaluation: Any, ready: Prepared) -> None:
    """Rows, tokens, faults of the data, and the first sample as the model will see it."""
    for note in ready.template.notes:
        logger.info(note)
    _line('rows', source.account)
    _line('tokens', source.lint.stats)
    if evaluation is not None:
        _line('evaluation', evaluation.account)
        if overlap := evaluation.overlap(source):
            logger.warning('lint: %s', overlap)
    for finding in source.lint.findings:
        logger.warning('lint: %s', finding)
    _sample(ready)


def _sample(ready: Prepared) -> None:
    """The first row that can be encoded, coloured by loss weight."""
    from swift.templates import xray

    for sample in _first_samples(ready.train):
        try:
            encoded = ready.encode(sample)
        except SwiftError:
            continue
        if encoded:
            _line('first sample', sample.origin)
            xray.show(encoded[:1], ready.builder.tokenizer, limit=160)
            return


def _first_samples(rows: Any) -> Any:
    for i in range(min(len(rows), 20)) if hasattr(rows, '__len__') else ():
        try:
            sample = rows.sample(i)
        except SwiftError:
            continue
        if sample is not None:
            yield sample


def model(backend: TorchBackend, info: ModelInfo, *, shared: float) -> None:
    """What was loaded, how much of it learns, and what becomes of the ``shared`` part of all tokens: beginnings."""
    total = sum(p.numel() for p in backend.model.parameters())
    learning = sum(p.numel() for p in backend.trained.values())
    _line('model', f'{info.id} ({info.architecture}, {info.dtype}) on {backend.device}')
    _line('learns', f'{learning:,} of {total:,} parameters ({learning / max(total, 1):.2%})')
    if backend.steps_in_backward:
        _line('optimizer', 'steps within the backward pass wherever a step is one micro-batch')
    names = (f'{each.name} ({each.count})' if each.count > 1 else each.name for each in backend.kernels)
    _line('kernels', f'{", ".join(names) or "none"}{_no_compiler()}')
    if shared:
        _line('prefixes', f'{shared:.0%} of the tokens are shared beginnings: {_once(backend, shared)}')
    if backend.unpacked_reason:
        _line('packing', f'one sequence at a time: {backend.unpacked_reason}')


def _once(backend: TorchBackend, shared: float) -> str:
    if reason := backend.runner.unshared_reason():
        return f'computed again for each sequence: {reason}'
    return f'computed once, up to {1 / (1 - shared):.1f}x sooner'


def _no_compiler() -> str:
    from swift.kernels import compiled

    reason = compiled.missing()
    return f'; without C++: {reason}' if reason else ''


def start(run: Path, pace: Pace, progress: Progress | None) -> None:
    """Where the run lies and how long it is."""
    resumed = f', going on after step {progress.step}' if progress else ''
    _line('run', f'{run}: {pace.steps:,} steps{resumed}')


def end(run: Path, done: Progress, *, load_best: bool) -> Path | None:
    """Draw the plots, settle the links, say how to go on. Returns the last checkpoint."""
    from swift.train import track
    from swift.train.resume import JOURNAL

    try:
        track.plot(run / JOURNAL, run / 'images')
    except SwiftError as error:  # matplotlib is an extra
        logger.info('no plots: %s', error)
    if load_best and (run / 'best').is_symlink():
        files.link(run / 'last', os.readlink(run / 'best'))
    last = run / 'last'
    if not last.exists():
        return None
    folder = last.resolve()
    flag = '--adapters' if (folder / 'adapter_config.json').is_file() else '--model'
    best = f', best at step {done.best_step} ({done.best:.4f})' if done.best_step is not None else ''
    _line('done', f'{done.step:,} steps, {done.tokens:,} tokens{best}')
    _line('chat', f'swift infer {flag} {shlex.quote(str(folder))}')
    return folder


def _line(name: str, text: Any) -> None:
    say(f'{name:<13} {text}')
