"""How a run is saved and gone on with: every checkpoint, whole, and everything that must be the same afterwards.

with files.lock(run), Signals() as signals:
    save = saver(run, backend, source, fingerprint=now, extras=write_tokenizer_and_args, limit=3)
    progress = load(found, backend, source, fingerprint=now, run=run) if found else None
    with Watchdog(run, budget=1800) as watchdog:
        Trainer(backend, objective, source, pace, save=save, progress=progress,
                skipped=run / SKIPPED, signals=signals, watchdog=watchdog).fit()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from swift.core import files
from swift.core.errors import ConfigError
from swift.core.types import Source, TrainBackend
from swift.train import checkpoint, state
from swift.train.fingerprint import check
from swift.train.trainer import Progress

JOURNAL = 'logging.jsonl'
SKIPPED = 'skipped.jsonl'


def saver(
    run: Path,
    backend: TrainBackend,
    source: Source,
    *,
    fingerprint: dict[str, Any],
    extras: Callable[[Path], None],
    limit: int | None = None,
    weights_only: bool = False,
) -> Callable[[int, Progress], Path]:
    """The ``save`` of a Trainer: ``run/checkpoint-N`` with what others open, ``extras`` and the training state.

    Args:
        extras: writes what else belongs into a checkpoint (tokenizer, args.json) into the folder it is given.
        limit: ``--save_total_limit``.
        weights_only: ``--save_only_model``: no training state.
    """

    def save(step: int, progress: Progress) -> Path:
        def write(folder: Path) -> None:
            state.refuse_nonfinite(backend.weights())
            backend.export(folder)
            extras(folder)
            if not weights_only:
                state.save(folder, backend, source, asdict(progress))

        for name in (JOURNAL, SKIPPED):
            if (run / name).exists():
                files.sync(run / name)  # what the checkpoint will never write again
        facts = {'fingerprint': fingerprint}
        return checkpoint.save(run, step, write, facts, best_step=progress.best_step, limit=limit)

    return save


def load(
    folder: Path,
    backend: TrainBackend,
    source: Source,
    *,
    fingerprint: dict[str, Any],
    run: Path,
    allow_changes: bool = False,
) -> Progress:
    """Put a checkpoint found by ``checkpoint.resolve`` into a run that was just built; call it last before ``fit``.

    The run's journals go back to the step of the checkpoint; a run that goes on in a new folder gets a copy of them.

    Raises:
        ConfigError: the run differs from the one that was saved (see ``fingerprint.check``), or would mix with it.
    """
    changed = check(files.read_manifest(folder).facts['fingerprint'], fingerprint, allow=allow_changes)
    if changed and folder.parent == run and folder != checkpoint.listed(run)[-1]:
        raise ConfigError(f'{run} has later checkpoints of the run as it was; choose another --output_dir to change it')
    saved = state.load(folder, backend, source)
    if saved.keys() != (known := {each.name for each in fields(Progress)}):
        different = ', '.join(sorted(saved.keys() ^ known))
        raise ConfigError(f'{folder} was written by another version of this program (progress differs in: {different})')
    progress = Progress(**saved)
    for name in (JOURNAL, SKIPPED):
        if folder.parent != run and (folder.parent / name).exists():
            files.write(run / name, (folder.parent / name).read_bytes())
        checkpoint.rewind(run / name, progress.step)
    return progress


def home(folder: Path, output_dir: Path) -> Path | None:
    """The run folder to go on in: that of the checkpoint if it lies in ``output_dir``; None: make a new one."""
    run = folder.parent
    return run if output_dir.resolve() in (run.resolve(), run.resolve().parent) else None
