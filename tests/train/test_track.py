"""Reports of a run: the console, logging.jsonl, plots, TensorBoard, W&B and SwanLab, all without a network."""

import io
import json

import pytest

from swift.core.errors import ConfigError
from swift.train import track

RECORD = {
    'loss': 1.25, 'token_acc': 0.5, 'grad_norm': 0.7, 'learning_rate': 1e-4, 'tokens/s': 1234.5, 'memory(GiB)': 1.5,
    'global_step/max_steps': '3/10', 'elapsed_time': '3s', 'remaining_time': '7s',
}  # fmt: skip
SWANLAB = {'token': None, 'project': 'test', 'workspace': None, 'exp_name': None, 'mode': 'local'}


def make(names, folder):
    return track.trackers(names, folder, name='run', logging_dir=folder / 'runs', config={'a': 1}, swanlab=SWANLAB)


def test_the_console_prints_aligned_lines_with_the_columns_that_there_are():
    out = io.StringIO()
    console = track.Console(out)
    console.log(3, RECORD)
    console.log(4, {**RECORD, 'loss': 11.5})
    console.log(4, {'eval_loss': 2.0, 'eval_token_acc': 0.25, 'global_step/max_steps': '4/10'})
    head, first, second, evaluation = out.getvalue().splitlines()
    assert len(head) == len(first) == len(second)
    assert '1.2500' in first
    assert '1,234' in first
    assert 'eval loss 2.0000' in evaluation


def test_the_journal_holds_every_record_and_becomes_plots(tmp_path):
    journal = track.Journal(tmp_path / 'logging.jsonl')
    for step in range(1, 6):
        journal.log(step, {**RECORD, 'loss': 5.0 / step})
    journal.log(5, {'eval_loss': 2.0})
    assert [json.loads(line)['step'] for line in journal.path.read_text().splitlines()] == [1, 2, 3, 4, 5, 5]
    written = track.plot(journal.path, tmp_path / 'images')
    assert {path.name for path in written} >= {'train_loss.png', 'train_learning_rate.png', 'eval_loss.png'}
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in written)


def test_smoothing_starts_at_the_first_value():
    assert track._smoothed((4.0, 4.0, 4.0), 0.9) == pytest.approx([4.0, 4.0, 4.0])


def test_tensorboard_files_can_be_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = make(['tensorboard'], tmp_path)
    tracker.log(3, RECORD)
    tracker.close()
    events = EventAccumulator(str(tmp_path / 'runs')).Reload()
    assert events.Scalars('train/loss')[0].value == pytest.approx(1.25)
    assert events.Scalars('train/loss')[0].step == 3


def test_wandb_and_swanlab_write_into_the_run_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    for name, pattern in (('wandb', 'wandb/offline-run-*'), ('swanlab', 'swanlab/*')):
        (tracker,) = make([name], tmp_path)
        tracker.log(3, RECORD)
        tracker.close()
        assert list(tmp_path.glob(pattern)), name


def test_none_means_none_and_unknown_names_are_refused(tmp_path):
    assert make(['none'], tmp_path) == []
    with pytest.raises(ConfigError, match='wandbb'):
        make(['wandbb'], tmp_path)


def test_tensorboard_alone_is_left_out_with_a_word_where_it_is_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr('swift.train.track.find_spec', lambda name: None)
    assert make(['tensorboard'], tmp_path) == []
    assert 'pip install tensorboard' in caplog.text
