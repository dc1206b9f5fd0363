"""Every point at which a run can die leaves a folder that it can go on from: explored from a recording of its disk."""

import json
import random
import shutil

import pytest

from swift.core import files
from swift.core.errors import SwiftError
from swift.train import checkpoint, resume, state
from tests.chaos import disk, world

STEPS = 12


def record(run, monkeypatch, recorder):
    run.mkdir()
    monkeypatch.setattr(files, 'fs', recorder)
    world.train(run, steps=STEPS, save=2, limit=2)
    monkeypatch.setattr(files, 'fs', disk.NeverSyncs())
    return recorder.log


@pytest.fixture
def log(tmp_path, monkeypatch):
    return record(tmp_path / 'run', monkeypatch, disk.Recorder(tmp_path / 'run'))


def examine(folder, done):
    """What a resumed run would meet in ``folder``; AssertionError or CorruptError when a promise is broken."""
    promised = committed(done)
    listed = [checkpoint.step_of(each) for each in checkpoint.listed(folder)]
    for each in checkpoint.listed(folder):
        checkpoint.check(each)
        state.read(each / 'state')
    for link in ('last', 'best'):
        if (folder / link).is_symlink():
            checkpoint.check((folder / link).resolve())
    newest = max(listed, default=0)
    assert newest >= max(promised, default=0), f'saved {promised}, found {listed}'
    with files.lock(folder):
        left = [each.name for each in folder.iterdir() if each.name.startswith((files.TEMP, files.OLD))]
        assert left == []
        checkpoint.rewind(folder / resume.JOURNAL, newest)
    steps = [json.loads(line)['step'] for line in files.lines(folder / resume.JOURNAL)]
    evaluated = list(range(4, newest + 1, 4))
    assert sorted(steps) == sorted([*range(1, newest + 1), *evaluated]), f'journal up to {newest}: {steps}'
    if (folder / 'args.json').exists():
        json.loads((folder / 'args.json').read_text())


def committed(done):
    """Steps whose checkpoint had its name, durably."""
    named, promised = [], []
    for operation in done:
        if operation.what == 'rename' and (match := checkpoint.NAME.fullmatch(operation.other)):
            named.append(int(match[1]))
        elif operation.what == 'sync' and operation.path == '.':
            promised = list(named)
    return promised


def explore(log, folder, *, points, seed):
    """Crash at ``points`` random instants in both ways. Returns the failures."""
    dice = random.Random(seed)
    failures = []
    for point in range(points):
        count = dice.randint(0, len(log))
        there = folder / str(point)
        there.mkdir(parents=True)
        disk.after_power_loss(log, count, there, dice)
        try:
            examine(there, log[:count])
        except (AssertionError, SwiftError, OSError, ValueError) as error:
            failures.append(f'power lost after {count} of {len(log)} operations: {error!r}')
        shutil.rmtree(there)
    return failures


def test_a_kill_after_any_operation_leaves_a_run_that_can_go_on(tmp_path, log):
    assert len(log) > 150
    for count in range(len(log) + 1):
        there = tmp_path / 'killed' / str(count)
        there.mkdir(parents=True)
        disk.after_kill(log, count, there)
        examine(there, log[:count])
        shutil.rmtree(there)


def test_a_power_loss_at_any_instant_leaves_a_run_that_can_go_on(tmp_path, log):
    assert explore(log, tmp_path / 'lost', points=200, seed=1) == []


@pytest.mark.slow
def test_ten_thousand_power_losses_leave_a_run_that_can_go_on(tmp_path, log):
    assert explore(log, tmp_path / 'lost', points=10_000, seed=2) == []


@pytest.mark.parametrize('forgotten', ['files', 'directories'])
def test_the_explorer_catches_a_writer_that_forgets_to_sync(tmp_path, monkeypatch, forgotten):
    class Forgetful(disk.Recorder):
        def sync(self, path):
            if path.is_dir() == (forgotten == 'directories'):
                self._meet(path)
            else:
                super().sync(path)

    log = record(tmp_path / 'run', monkeypatch, Forgetful(tmp_path / 'run'))
    if forgotten == 'directories':
        # without them nothing was ever promised: the folder must at least never show a half
        assert committed(log) == []
    failures = explore(log, tmp_path / 'lost', points=100, seed=1)
    assert any('CorruptError' in each for each in failures)


def test_the_explorer_catches_a_rotation_that_deletes_first(tmp_path, monkeypatch):
    save = checkpoint.save

    def hasty(run, step, write, facts, **kwargs):
        for each in checkpoint.listed(run):
            files.delete(each)
        return save(run, step, write, facts, **kwargs)

    monkeypatch.setattr(checkpoint, 'save', hasty)
    log = record(tmp_path / 'run', monkeypatch, disk.Recorder(tmp_path / 'run'))
    assert explore(log, tmp_path / 'lost', points=100, seed=1) != []
