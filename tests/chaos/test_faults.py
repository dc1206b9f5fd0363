"""Disk full, I/O errors, corruption, a second run, signals and numbers that are not finite, in a real training."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch

from swift.core import files
from swift.core.errors import ConfigError, CorruptError, DiskError, Interrupted, LockedError, NumericalError
from swift.train import checkpoint, resume, state
from tests.chaos import disk, world


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that nothing disturbed: its folder and its end state."""
    run = tmp_path_factory.mktemp('whole')
    return run, world.weights(world.train(run, steps=8))


def go_on(run, **kwargs):
    return world.train(run, steps=8, resume_from=checkpoint.resolve('last', run), **kwargs)


# ----------------------------------------------------------------------------------------------------------- disk
@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_disk_error_at_any_operation_keeps_the_checkpoint_before_it(tmp_path, monkeypatch, number):
    for k in range(1, 500):
        run = tmp_path / str(k)
        run.mkdir()
        fault = disk.Failing(k, number)
        monkeypatch.setattr(files, 'fs', fault)
        try:
            world.train(run, steps=4, limit=1)
        except DiskError as error:
            assert error.exit_code == 74 and str(run) in str(error) and 'bytes free' in str(error)
        else:
            assert not fault.failed
            break
        monkeypatch.setattr(files, 'fs', files.Fs())
        assert [each for each in os.listdir(run) if each.startswith((files.TEMP, files.OLD))] == [], k
        for each in checkpoint.listed(run):
            checkpoint.check(each)
        if (run / 'last').is_symlink():
            checkpoint.check((run / 'last').resolve())
    assert k > 40


def test_a_disk_that_stays_broken_keeps_the_checkpoint_before_it(tmp_path, monkeypatch, whole):
    run = tmp_path / 'run'
    run.mkdir()
    monkeypatch.setattr(files, 'fs', disk.Failing(60, errno.EIO, forever=True))
    with pytest.raises(DiskError):
        world.train(run, steps=8)
    monkeypatch.setattr(files, 'fs', files.Fs())
    assert checkpoint.newest(run) is not None
    assert world.weights(go_on(run)) == whole[1]


def test_a_file_system_without_room_for_the_weights_is_a_disk_error(tmp_path):
    """The limit on file sizes stops safetensors itself in the middle of a file, below every seam."""
    program = (
        'import resource, signal, sys\n'
        'from pathlib import Path\n'
        'from tests.chaos import world\n'
        'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))\n'
        'from swift.core.errors import SwiftError\n'
        'try: world.train(Path(sys.argv[1]), steps=4)\n'
        'except SwiftError as error: print(error); sys.exit(error.exit_code)\n'
    )
    done = subprocess.run([sys.executable, '-c', program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 74, done.stderr
    assert 'checkpoint-2: File too large' in done.stdout
    assert {each.name for each in tmp_path.iterdir()} == {files.LOCK, 'args.json', resume.JOURNAL}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# ----------------------------------------------------------------------------------------------------- corruption
def flip(path, _):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 16
    path.write_bytes(data)


def truncate(path, _):
    os.truncate(path, path.stat().st_size // 2)


def remove(path, _):
    path.unlink()


def swap(path, other):
    path.write_bytes(other.read_bytes())


FILES = (
    'adapter_model.safetensors',
    'adapter_config.json',
    'args.json',
    'manifest.json',
    'state/data.json',
    'state/tensors.safetensors',
)


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('damage', [flip, truncate, remove, swap])
def test_corruption_is_found_before_the_first_step_and_the_run_goes_on_from_the_checkpoint_before(
    tmp_path, caplog, whole, damage, name
):
    run = tmp_path / 'run'
    world.train(run, steps=6)
    same = name in ('args.json', 'adapter_config.json') and damage is swap  # the bytes do not change from step to step
    damage(run / 'checkpoint-6' / name, run / 'checkpoint-4' / name)
    found = checkpoint.resolve('last', run)
    assert found.name == ('checkpoint-6' if same else 'checkpoint-4')
    if not same:
        assert name in caplog.text or name == 'manifest.json'  # another's manifest blames the other files
        assert world.weights(world.train(run, steps=8, resume_from=found)) == whole[1]
        checkpoint.check(run / 'checkpoint-6')  # it was written again


def test_a_run_with_corrupt_checkpoints_only_is_refused(tmp_path):
    run = tmp_path / 'run'
    world.train(run, steps=2)
    flip(run / 'checkpoint-2' / 'adapter_model.safetensors', None)
    with pytest.raises(CorruptError):
        checkpoint.resolve('last', run)


# ---------------------------------------------------------------------------------------------------------- owner
def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    run = tmp_path / 'run'

    def second(step):
        if step == 1:
            with pytest.raises(LockedError) as refused:
                world.train(run, steps=8)
            assert refused.value.exit_code == 73 and str(os.getpid()) in str(refused.value)

    world.train(run, steps=2, during=second)


# -------------------------------------------------------------------------------------------------------- signals
@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize('at', [1, 3, 4])
def test_a_signal_loses_no_step_and_the_run_goes_on_bit_for_bit(tmp_path, whole, number, code, at):
    run = tmp_path / 'run'
    with pytest.raises(Interrupted) as stopped:
        world.train(run, steps=8, during=lambda step: step == at and os.kill(os.getpid(), number))
    assert stopped.value.exit_code == code
    found = checkpoint.resolve('last', run)
    assert checkpoint.step_of(found) == at and str(found) in str(stopped.value)
    assert world.weights(go_on(run)) == whole[1]
    assert world.records(run) == world.records(whole[0])


def test_a_signal_in_an_evaluation_puts_it_off_until_the_run_goes_on(tmp_path, whole):
    run = tmp_path / 'run'
    with pytest.raises(Interrupted):
        world.train(run, steps=8, evaluating=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert checkpoint.step_of(checkpoint.resolve('last', run)) == 4
    assert 'eval_loss' not in str(world.records(run))
    assert world.weights(go_on(run)) == whole[1]
    assert world.records(run) == world.records(whole[0])


def test_sigusr1_saves_and_goes_on(tmp_path, whole):
    run = tmp_path / 'run'
    ended = world.train(
        run, steps=8, limit=None, during=lambda step: step == 3 and os.kill(os.getpid(), signal.SIGUSR1)
    )
    assert [checkpoint.step_of(each) for each in checkpoint.listed(run)] == [2, 3, 4, 6, 8]
    assert world.weights(ended) == whole[1]


# ---------------------------------------------------------------------------------------------------- resumption
class Dies(Exception):
    pass


@pytest.mark.parametrize('at', range(1, 8))
def test_a_run_that_dies_after_any_step_goes_on_bit_for_bit(tmp_path, whole, at):
    run = tmp_path / 'run'

    def die(step):
        if step == at:
            raise Dies

    with pytest.raises(Dies):
        world.train(run, steps=8, save=1, during=die)
    if at == 1:
        return
    found = checkpoint.resolve('last', run)
    assert checkpoint.step_of(found) == at - 1
    assert world.weights(go_on(run, save=1)) == whole[1]
    assert world.records(run) == world.records(whole[0])


def test_a_run_that_goes_on_in_a_new_folder_brings_its_journal(tmp_path, whole):
    old, new = tmp_path / 'old', tmp_path / 'new'
    with pytest.raises(Interrupted):
        world.train(old, steps=8, during=lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM))
    ended = world.train(new, steps=8, resume_from=checkpoint.resolve('last', old))
    assert world.weights(ended) == whole[1] and world.records(new) == world.records(whole[0])


def test_a_run_with_other_settings_is_refused_unless_told(tmp_path):
    run = tmp_path / 'run'
    world.train(run, steps=4)
    with pytest.raises(ConfigError, match='seed: was 42, is 43'):
        go_on(run, fingerprint={'seed': 43})
    assert checkpoint.step_of(checkpoint.newest(run)) == 4


# ----------------------------------------------------------------------------------------------------------- hang
def test_a_training_that_hangs_ends_with_75_and_goes_on_from_its_checkpoint(tmp_path, whole):
    program = (
        'import sys, threading\n'
        'from pathlib import Path\n'
        'from tests.chaos import world\n'
        'def wait_for_ever(step):\n'
        '    if step == 5: threading.Event().wait()\n'
        'world.train(Path(sys.argv[1]), steps=8, during=wait_for_ever, hang_timeout=1.0)\n'
    )
    run = tmp_path / 'run'
    done = subprocess.run([sys.executable, '-c', program, run], capture_output=True, text=True, timeout=120)
    assert done.returncode == 75 and 'in: step 5' in done.stderr, done.stderr
    (stacks,) = run.glob('hang-*.txt')
    assert 'wait_for_ever' in stacks.read_text()
    assert world.weights(go_on(run)) == whole[1] and world.records(run) == world.records(whole[0])


# -------------------------------------------------------------------------------------------------------- numbers
def poisoned(model):
    """A weight that overflows for every input, as a broken download or a diverged run leaves it."""
    with torch.no_grad():
        model.get_base_model().model.layers[0].mlp.down_proj.weight[0, 0] = float('inf')


def test_a_model_that_gives_no_finite_loss_stops_with_its_rows_named(tmp_path):
    run = tmp_path / 'run'
    with pytest.raises(NumericalError) as stopped:
        world.train(run, steps=20, save=3, damage=poisoned)
    assert stopped.value.exit_code == 76 and 'skipped.jsonl' in str(stopped.value)
    skipped = [json.loads(line) for line in files.lines(run / resume.SKIPPED)]
    assert [each['step'] for each in skipped] == list(range(1, 11)) and skipped[0]['loss'] == 'nan'
    assert all(len(each['rows']) == 2 and each['rows'][0].startswith('rows.jsonl:') for each in skipped)
    assert all('loss' not in record for record in world.records(run))


def test_one_step_without_a_finite_loss_is_skipped_and_not_reported_as_a_success(tmp_path):
    run = tmp_path / 'run'
    models = []

    def poison_step_three(step):
        if step in (2, 3):
            with torch.no_grad():
                models[0].get_base_model().lm_head.weight[0] = float('inf') if step == 2 else 0.0

    world.train(run, steps=6, damage=models.append, during=poison_step_three)
    reported = [record['step'] for record in world.records(run) if 'loss' in record]
    assert reported == [1, 2, 4, 5, 6]
    (skipped,) = files.lines(run / resume.SKIPPED)
    assert json.loads(skipped)['step'] == 3 and json.loads(skipped)['in_a_row'] == 1
    assert world.records(run)[-1]['step'] == 6


def test_skipped_steps_leave_the_weights_as_they_were_and_replace_no_checkpoint(tmp_path):
    run = tmp_path / 'run'
    models = []

    def poison_step_five(step):
        if step == 4:
            poisoned(models[0])

    with pytest.raises(NumericalError):
        world.train(run, steps=20, damage=models.append, during=poison_step_five)
    assert [checkpoint.step_of(each) for each in checkpoint.listed(run)] == [2, 4]
    saved, _ = state.read(run / 'checkpoint-4' / checkpoint.STATE)
    for name, parameter in models[0].named_parameters():
        if parameter.requires_grad:
            assert torch.equal(saved[f'backend/param/{name}'], parameter), name
