"""The checkpoints of a run: saved whole, found by their manifests, rotated, linked.

    run/                     owned by one process at a time: ``with files.lock(run):``
      checkpoint-20/         what others open (a plain adapter or model folder) + state/ + manifest.json
      best -> checkpoint-10  the checkpoint with the best evaluation
      last -> checkpoint-20  the newest

The order of operations makes every crash harmless: the new checkpoint is durable before a link names it, and named
before an old one goes; an old one loses its name before it loses its first file.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from swift.core import files
from swift.core.errors import ConfigError, CorruptError
from swift.train.folder import versions

logger = logging.getLogger(__name__)

NAME = re.compile(r'checkpoint-(\d+)')
STATE = 'state'


# ---------------------------------------------------------------------------------------------------------- write
def save(
    run: Path,
    step: int,
    write: Callable[[Path], None],
    facts: Mapping[str, Any],
    *,
    best_step: int | None = None,
    limit: int | None = None,
) -> Path:
    """Write ``run/checkpoint-step``, point ``last`` (and ``best``) at it, and delete what is over the limit.

    Args:
        write: writes everything into the empty folder it is given.
        facts: JSON values kept in the manifest beside ``step``, such as the fingerprint.
        best_step: the step whose checkpoint is the best so far; None leaves ``best`` as it is.
        limit: checkpoints to keep; None keeps all.

    Raises:
        DiskError: disk full or I/O error. The checkpoints that were there still are.
    """
    folder = run / f'checkpoint-{step}'
    with files.commit(folder, replace=True, need=_likely_size(run), step=step, **facts) as temp:
        write(temp)
    files.link(run / 'last', folder.name)
    if best_step is not None and (run / f'checkpoint-{best_step}').exists():
        files.link(run / 'best', f'checkpoint-{best_step}')
    if limit is not None:
        rotate(run, limit, newest=folder)
    return folder


def rotate(run: Path, limit: int, *, newest: Path) -> list[Path]:
    """Delete the oldest checkpoints until ``limit`` are left; never ``newest`` nor the best. Returns the deleted."""
    best = os.readlink(run / 'best') if (run / 'best').is_symlink() else None
    spare = [each for each in listed(run) if each != newest and each.name != best]
    kept = len(listed(run)) - len(spare)
    surplus = spare[: max(0, len(spare) - max(0, limit - kept))]
    for each in surplus:
        files.delete(each)
    return surplus


def rewind(journal: Path, step: int) -> None:
    """Take from a journal of JSON lines with a ``step`` what a run wrote after ``step``: it will write that again."""
    dropped = files.keep_lines(journal, lambda line: _step_of_line(line) <= step)
    if dropped:
        logger.info('%s: %d lines after step %d are taken back', journal, dropped, step)


# ----------------------------------------------------------------------------------------------------------- find
def listed(run: Path) -> list[Path]:
    """The folders called checkpoint-N, by N. What they hold is not looked at."""
    if not run.is_dir():
        return []
    found = [each for each in run.iterdir() if NAME.fullmatch(each.name) and each.is_dir() and not each.is_symlink()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """``checkpoint-20 -> 20``."""
    match = NAME.fullmatch(folder.name)
    assert match, folder
    return int(match[1])


def check(folder: Path) -> files.Manifest:
    """Verify every file of a checkpoint. Raises CorruptError."""
    manifest = files.verify(folder)
    if manifest.facts.get('step') != step_of(folder):
        raise CorruptError(f'{folder} is not what its name says: its manifest is of step {manifest.facts.get("step")}')
    return manifest


def newest(run: Path, *, before: int | None = None) -> Path | None:
    """The newest checkpoint that verifies; corrupt ones are skipped with a warning that says why.

    Args:
        before: look only at earlier steps.
    """
    for folder in reversed(listed(run)):
        if before is not None and step_of(folder) >= before:
            continue
        try:
            check(folder)
        except CorruptError as error:
            logger.warning('%s. Looking for the checkpoint before it', error)
        else:
            return folder
    return None


def resolve(resume_from: str, output_dir: Path, *, weights_only: bool = False) -> Path:
    """The checkpoint folder that ``--resume_from_checkpoint`` means, every byte of it verified.

    Args:
        resume_from: ``last`` or ``best`` of ``output_dir`` (or of its newest version that has one); or a path to a
            checkpoint, to a link to one, or to a run.
        weights_only: ``--resume_only_model``: folders of other tools, which have no state, are welcome.

    Raises:
        ConfigError: there is no such checkpoint, or it has no training state.
        CorruptError: it is corrupt, and there is no earlier one of the same run to go on from.
    """
    if resume_from in ('last', 'best'):
        folder = _named(resume_from, output_dir)
    else:
        path = Path(resume_from).expanduser().resolve()
        if not path.is_dir():
            raise ConfigError(f'--resume_from_checkpoint {resume_from}: no such folder{_choices(path.parent)}')
        folder = _last_of_run(path) if listed(path) else path
    if _is_foreign(folder):
        if weights_only:
            return folder
        raise ConfigError(
            f'--resume_from_checkpoint {folder}: it holds weights but no training state (optimizer, data position, '
            'random generators), so training cannot go on exactly. To start from its weights alone, add '
            '--resume_only_model true'
        )
    return _sound(folder, exact=weights_only or resume_from == 'best')


# -------------------------------------------------------------------------------------------------------- helpers
def _sound(folder: Path, *, exact: bool) -> Path:
    """``folder`` if it verifies, else an earlier checkpoint: the way from there leads through the same steps again."""
    try:
        if NAME.fullmatch(folder.name):
            check(folder)
        else:
            files.verify(folder)
    except CorruptError as error:
        earlier = newest(folder.parent, before=step_of(folder)) if NAME.fullmatch(folder.name) and not exact else None
        if earlier is None:
            raise
        logger.warning('%s. Going on from %s instead', error, earlier)
        return earlier
    return folder


def _named(name: str, output_dir: Path) -> Path:
    runs = _runs(output_dir)
    if name == 'last':
        for run in runs:
            if folder := newest(run):
                return folder
        if any(listed(run) for run in runs):
            raise CorruptError(
                f'--resume_from_checkpoint last: every checkpoint in {output_dir} is corrupt (see above)'
            )
    for run in runs:
        if (run / 'best').is_dir():
            return (run / 'best').resolve()
    raise ConfigError(f'--resume_from_checkpoint {name}: {output_dir} has no checkpoint; leave the flag out to start')


def _runs(output_dir: Path) -> list[Path]:
    """``output_dir`` itself and its versions, the newest first."""
    numbered = versions(output_dir) if output_dir.is_dir() else []
    return [output_dir, *(run for _, run in reversed(numbered))]


def _last_of_run(run: Path) -> Path:
    folder = newest(run)
    if folder is None:
        raise CorruptError(f'every checkpoint in {run} is corrupt (see above)')
    return folder


def _is_foreign(folder: Path) -> bool:
    """Whether it never had training state: made by another tool, or with --save_only_model."""
    if (folder / STATE).exists():
        return False
    try:
        return not any(name.startswith(f'{STATE}/') for name in files.read_manifest(folder).files)
    except CorruptError:
        return not (folder / files.MANIFEST).exists()


def _choices(parent: Path) -> str:
    names = [each.name for each in listed(parent)]
    return f'; {parent} has {", ".join(names)}' if names else ''


def _likely_size(run: Path) -> int:
    """Bytes of the newest listed checkpoint, 0 if there is none: the next one will be about as large."""
    try:
        return sum(each.size for each in files.read_manifest(listed(run)[-1]).files.values())
    except (IndexError, CorruptError):
        return 0


def _step_of_line(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
        return float('inf')  # torn in the middle of the file: a line that no reader could use
