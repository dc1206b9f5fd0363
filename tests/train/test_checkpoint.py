"""Checkpoints are saved, found, refused and rotated as a run needs it."""

import os
import random

import numpy as np
import pytest
import torch

from swift.core import files
from swift.core.errors import ConfigError, CorruptError, NumericalError
from swift.train import checkpoint, fingerprint, state


class OneWeight:
    """The smallest training backend: one weight and its moment."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.tensors = {
            'param/w': torch.randn(3, generator=generator),
            'optim/w/exp_avg': torch.randn(3, generator=generator, dtype=torch.float64),
            'optim/w/step': torch.tensor(7.0),
        }
        self.data = {'step_count': seed, 'loss_scale': 65536.0}

    def state(self):
        return self.tensors, self.data

    def load_state(self, tensors, data):
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.data = {'step_count': data['step_count'], 'loss_scale': data['loss_scale']}


class Counter:
    """A source that knows its position only."""

    def __init__(self, at: int):
        self.at = at

    def state_dict(self):
        return {'at': self.at}

    def load_state_dict(self, saved):
        self.at = saved['at']


def saved(run, step, **kwargs):
    def write(folder):
        (folder / 'adapter_model.safetensors').write_bytes(bytes(range(256)) * step)
        state.save(folder, OneWeight(step), Counter(step), {'step': step})

    run.mkdir(exist_ok=True, parents=True)
    return checkpoint.save(run, step, write, {'fingerprint': {'seed': 1}}, **kwargs)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def steps(run):
    return [checkpoint.step_of(each) for each in checkpoint.listed(run)]


# --------------------------------------------------------------------------------------------------------- saving
def test_last_and_best_are_links_to_checkpoints(tmp_path):
    saved(tmp_path, 10, best_step=10)
    saved(tmp_path, 20, best_step=10)
    assert os.readlink(tmp_path / 'last') == 'checkpoint-20'
    assert os.readlink(tmp_path / 'best') == 'checkpoint-10'
    assert files.verify(tmp_path / 'last').facts == {'step': 20, 'fingerprint': {'seed': 1}}


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (10, 20, 30, 40, 100):
        saved(tmp_path, step, best_step=20, limit=3)
    assert steps(tmp_path) == [20, 40, 100]
    saved(tmp_path, 110, best_step=20, limit=1)
    assert steps(tmp_path) == [20, 110]


def test_a_failing_save_deletes_nothing(tmp_path):
    saved(tmp_path, 10, limit=1)

    def write(folder):
        raise RuntimeError('no')

    with pytest.raises(RuntimeError):
        checkpoint.save(tmp_path, 20, write, {}, limit=1)
    assert steps(tmp_path) == [10] and os.readlink(tmp_path / 'last') == 'checkpoint-10'


def test_saving_the_same_step_again_replaces_a_corrupt_checkpoint(tmp_path):
    flip(saved(tmp_path, 10) / 'adapter_model.safetensors')
    checkpoint.check(saved(tmp_path, 10))


# -------------------------------------------------------------------------------------------------------- finding
def test_the_newest_is_found_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        saved(tmp_path, step)
    assert checkpoint.newest(tmp_path) == tmp_path / 'checkpoint-100'
    assert checkpoint.newest(tmp_path / 'nowhere') is None


@pytest.mark.parametrize('asked', ['last', 'path', 'link', 'run'])
def test_a_corrupt_checkpoint_gives_way_to_the_one_before_it_and_the_reason_is_said(tmp_path, caplog, asked):
    saved(tmp_path, 10)
    bad = saved(tmp_path, 20)
    flip(bad / 'state' / 'tensors.safetensors')
    given = {'last': 'last', 'path': str(bad), 'link': str(tmp_path / 'last'), 'run': str(tmp_path)}[asked]
    assert checkpoint.resolve(given, tmp_path) == tmp_path / 'checkpoint-10'
    assert 'state/tensors.safetensors has other bytes' in caplog.text


def test_a_folder_that_was_renamed_to_another_step_is_not_believed(tmp_path, caplog):
    saved(tmp_path, 10).rename(tmp_path / 'checkpoint-30')
    saved(tmp_path, 20)
    assert checkpoint.newest(tmp_path) == tmp_path / 'checkpoint-20'
    assert 'its manifest is of step 10' in caplog.text


def test_swapped_files_are_found(tmp_path):
    a, b = saved(tmp_path, 10) / 'state', saved(tmp_path, 20) / 'state'
    (a / 'data.json').replace(b / 'data.json')
    assert checkpoint.newest(tmp_path) is None


def test_when_all_are_corrupt_the_run_is_refused(tmp_path):
    flip(saved(tmp_path, 10) / 'manifest.json')
    for asked in ('last', str(tmp_path), str(tmp_path / 'checkpoint-10')):
        with pytest.raises(CorruptError):
            checkpoint.resolve(asked, tmp_path)


def test_last_of_an_output_folder_is_in_its_newest_version_that_has_one(tmp_path):
    saved(tmp_path / 'v1-20260101-000000', 5)
    saved(tmp_path / 'v10-20260101-000000', 3)
    (tmp_path / 'v11-20260101-000000').mkdir()
    assert checkpoint.resolve('last', tmp_path) == tmp_path / 'v10-20260101-000000' / 'checkpoint-3'


def test_best_is_found_and_never_replaced_by_another(tmp_path):
    for step in (10, 20, 30):
        saved(tmp_path, step, best_step=min(step, 20))
    assert checkpoint.resolve('best', tmp_path).name == 'checkpoint-20'
    flip(tmp_path / 'checkpoint-20' / 'adapter_model.safetensors')
    with pytest.raises(CorruptError):
        checkpoint.resolve('best', tmp_path)


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(ConfigError, match='has no checkpoint'):
        checkpoint.resolve('last', tmp_path)
    saved(tmp_path, 10)
    with pytest.raises(ConfigError, match='has checkpoint-10'):
        checkpoint.resolve(str(tmp_path / 'checkpoint-11'), tmp_path)


def test_an_adapter_without_state_is_good_for_its_weights_only(tmp_path):
    (tmp_path / 'adapter_config.json').write_text('{}')
    with pytest.raises(ConfigError, match='--resume_only_model true'):
        checkpoint.resolve(str(tmp_path), tmp_path)
    assert checkpoint.resolve(str(tmp_path), tmp_path, weights_only=True) == tmp_path


def test_a_checkpoint_whose_state_folder_is_gone_is_corrupt_not_foreign(tmp_path):
    folder = saved(tmp_path, 10)
    files.delete(folder / 'state')
    with pytest.raises(CorruptError, match=r'state/data\.json is missing'):
        checkpoint.resolve(str(folder), tmp_path)


def test_rewinding_a_journal_takes_back_later_and_torn_lines(tmp_path):
    journal = tmp_path / 'logging.jsonl'
    for step in range(1, 6):
        files.append(journal, f'{{"step": {step}, "loss": 0.5}}')
    with journal.open('a') as out:
        out.write('{"step": 6, "lo')
    checkpoint.rewind(journal, 3)
    assert files.lines(journal) == [f'{{"step": {step}, "loss": 0.5}}' for step in (1, 2, 3)]


# ---------------------------------------------------------------------------------------------------------- state
def test_state_comes_back_to_the_last_bit(tmp_path):
    torch.manual_seed(1), random.seed(2), np.random.seed(3)
    random.gauss(0, 1), np.random.standard_normal()
    folder = saved(tmp_path, 10)
    expected = [torch.rand(5), random.gauss(0, 1), np.random.standard_normal(3)]
    torch.manual_seed(9), random.seed(9), np.random.seed(9)
    backend, source = OneWeight(99), Counter(0)
    assert state.load(folder, backend, source) == {'step': 10}
    for name, tensor in OneWeight(10).tensors.items():
        assert torch.equal(backend.tensors[name], tensor) and backend.tensors[name].dtype == tensor.dtype
    assert backend.data == OneWeight(10).data and source.at == 10
    drawn = [torch.rand(5), random.gauss(0, 1), np.random.standard_normal(3)]
    assert torch.equal(drawn[0], expected[0]) and drawn[1] == expected[1] and (drawn[2] == expected[2]).all()


def test_a_state_with_a_missing_part_is_refused(tmp_path):
    tensors, data = state.read(saved(tmp_path, 10) / 'state')
    del tensors['backend/optim/w/exp_avg']
    (tmp_path / 'x').mkdir()
    state.write(tmp_path / 'x' / 'state', tensors, data)
    with pytest.raises(ConfigError, match='optim/w/exp_avg'):
        state.load(tmp_path / 'x', OneWeight(1), Counter(0))


def test_a_weight_that_is_not_finite_never_reaches_a_checkpoint(tmp_path):
    backend = OneWeight(1)
    backend.tensors['optim/w/exp_avg'][1] = float('inf')
    with pytest.raises(NumericalError, match='optim/w/exp_avg'):
        checkpoint.save(tmp_path, 1, lambda folder: state.save(folder, backend, Counter(1), {}), {})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- fingerprint
def test_a_different_run_is_refused_with_every_difference():
    before = {'seed': 42, 'tuner': {'lora_rank': 8, 'target_modules': ['all-linear']}, 'threads': 2}
    now = {'seed': 43, 'tuner': {'lora_rank': 16, 'target_modules': ('all-linear',)}, 'threads': 2, 'packing': True}
    fingerprint.check(before, before)
    with pytest.raises(ConfigError) as refused:
        fingerprint.check(before, now)
    text = str(refused.value)
    assert 'seed: was 42, is 43' in text and 'tuner.lora_rank: was 8, is 16' in text
    assert 'packing: was not there, is True' in text and 'threads' not in text and 'target_modules' not in text


def test_a_different_run_goes_on_with_a_warning_when_told(caplog):
    fingerprint.check({'seed': 42}, {'seed': 43}, allow=True)
    assert 'seed: was 42, is 43' in caplog.text


def test_the_digest_of_a_model_sees_other_weights_of_the_same_shape(tmp_path):
    from safetensors.torch import save_file

    digests = set()
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir(exist_ok=True)
        save_file({'w': torch.randn(100_000)}, tmp_path / str(seed) / 'model.safetensors')
        digests.add(fingerprint.of_folder(tmp_path / str(seed)))
    assert len(digests) == 2
