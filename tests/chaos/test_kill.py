"""True SIGKILLs at random instants of ``swift sft``: the run goes on and ends with the very same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from swift.core import files
from swift.train import checkpoint, resume, state
from tests import tiny
from tests.chaos.nursery import Nursery
from tests.chaos.world import TIMED

COMMON = {
    '--max_length': '64',
    '--learning_rate': '1e-3',
    '--per_device_train_batch_size': '2',
    '--gradient_accumulation_steps': '2',
    '--logging_steps': '1',
    '--save_steps': '2',
    '--eval_steps': '3',
    '--save_total_limit': '2',
    '--report_to': 'none',
    '--max_steps': '14',
    '--torch_dtype': 'float32',
}
VARIANTS = {
    'lora': {'--tuner_type': 'lora', '--lora_rank': '2', '--lora_dropout': '0.1', '--split_dataset_ratio': '0.1'},
    'full': {'--tuner_type': 'full', '--neftune_noise_alpha': '5', '--torch_dtype': 'bfloat16'},
    'packing': {'--tuner_type': 'lora', '--packing': 'true', '--packing_length': '96'},
    'streaming': {'--tuner_type': 'lora', '--streaming': 'true', '--shuffle_buffer_size': '8'},
    'packed stream': {'--packing': 'true', '--packing_length': '96', '--streaming': 'true'},
    'less than an epoch': {'--dataset': 'rows.jsonl#1000', '--per_device_train_batch_size': '1'},
    'dora': {'--use_dora': 'true', '--lora_dropout': '0.1', '--init_weights': 'gaussian'},
    'pissa': {'--init_weights': 'pissa_niter_4'},
    'fp16': {'--tuner_type': 'full', '--torch_dtype': 'float16'},
    'adamw_8bit': {'--tuner_type': 'full', '--optim': 'adamw_8bit', '--torch_dtype': 'bfloat16'},
    'qlora': {'--quant_method': 'bnb', '--quant_bits': '4'},
}
SHORT = ('lora', 'full', 'packing', 'streaming')


@dataclass(frozen=True)
class World:
    """A tiny model, some rows, a warm process, and for each variant a run that nothing disturbed."""

    folder: Path
    nursery: Nursery
    whole: dict[str, tuple[Path, float]]

    def argv(self, variant: str, output: Path, **more: str) -> list[str]:
        flags = {'--dataset': 'rows.jsonl', '--store_dir': str(self.folder / 'store')} | COMMON | VARIANTS[variant]
        flags |= {'--model': str(self.folder / 'model'), '--output_dir': str(output)} | more
        flags['--dataset'] = str(self.folder / flags['--dataset'])
        return ['sft', *(word for pair in flags.items() for word in pair)]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('world')
    tiny.folder(folder / 'model')
    tiny.rows(folder / 'rows.jsonl', 24)
    with Nursery(folder) as nursery:
        yield World(folder, nursery, {})


def undisturbed(world: World, variant: str) -> tuple[Path, float]:
    """The run folder and the seconds of a whole run, made once."""
    if variant not in world.whole:
        output = world.folder / f'whole-{variant}'
        done = world.nursery.run(world.argv(variant, output))
        assert done.code == 0, done.output
        world.whole[variant] = run_of(output), done.seconds
    return world.whole[variant]


def run_of(output: Path) -> Path:
    return max(output.iterdir(), key=lambda run: int(run.name[1:].partition('-')[0]))


def end(run: Path) -> dict[str, bytes]:
    """Every file of the last checkpoint that weights, optimizer and data position are in."""
    last = checkpoint.resolve('last', run)
    checkpoint.check(last)
    data = json.loads((last / checkpoint.STATE / state.DATA).read_text())
    for name in ('elapsed', 'time_since_log'):
        del data['progress'][name]
    found = {path.name: path.read_bytes() for path in last.rglob('*.safetensors')}
    return found | {'data': json.dumps(data).encode()}


def journal(run: Path) -> list[dict]:
    """logging.jsonl without what depends on the clock."""
    records = [json.loads(line) for line in files.lines(run / resume.JOURNAL)]
    return [{key: value for key, value in each.items() if key not in TIMED} for each in records if 'step' in each]


def go_on(world: World, variant: str, output: Path, **more: str):
    """Resume if there is something to resume, as a supervisor would; else start again."""
    if output.exists() and any(checkpoint.listed(run) for run in output.iterdir()):
        more['--resume_from_checkpoint'] = 'last'
    return world.argv(variant, output, **more)


def kill_and_go_on(world: World, variant: str, output: Path, dice: random.Random) -> None:
    """Kill a run once or twice at random instants, let it go on to its end, and compare it with the undisturbed one.

    Half of the runs have no token store yet: the kill may come while it is filled.
    """
    whole, seconds = undisturbed(world, variant)
    store = {'--store_dir': str(dice.choice((output.parent / f'{output.name}-store', world.folder / 'store')))}
    for _ in range(dice.choice((1, 1, 2))):
        world.nursery.run(go_on(world, variant, output, **store), kill_at=dice.uniform(0, seconds))
    done = world.nursery.run(go_on(world, variant, output, **store))
    assert done.code == 0, done.output
    run = run_of(output)
    assert end(run) == end(whole)
    assert journal(run) == journal(whole)
    assert [each.name for each in run.iterdir() if each.name.startswith((files.TEMP, files.OLD))] == []


@pytest.mark.parametrize('variant', SHORT)
def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(world, tmp_path, variant):
    kill_and_go_on(world, variant, tmp_path / 'out', random.Random(variant))


@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_hundred_killed_runs_end_with_the_bytes_of_an_undisturbed_one(world, tmp_path, variant):
    dice = random.Random(f'{variant} long')
    for trial in range(10):
        kill_and_go_on(world, variant, tmp_path / str(trial), dice)


def test_a_run_goes_on_in_a_process_with_other_hashes(world, tmp_path):
    """The warm process gives all its children one hash seed; a real restart has another."""
    whole, _ = undisturbed(world, 'packing')
    assert world.nursery.run(world.argv('packing', tmp_path), kill_at=' 5/14 ').code == -signal.SIGKILL
    alone = {'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'PYTHONHASHSEED': '123'}
    argv = [sys.executable, '-m', 'swift.cli', *go_on(world, 'packing', tmp_path)]
    done = subprocess.run(argv, env=os.environ | alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert end(run_of(tmp_path)) == end(whole) and journal(run_of(tmp_path)) == journal(whole)


@pytest.mark.parametrize('file_size', [0, 200, 3_000, 20_000, 45_000])
def test_a_full_disk_ends_the_command_with_74_whoever_was_writing(world, tmp_path, file_size):
    more = {'--store_dir': str(tmp_path / 'store')}
    done = world.nursery.run(world.argv('lora', tmp_path / 'out', **more), file_size=file_size)
    assert done.code == 74, done.output
    assert [path for path in tmp_path.rglob('*') if path.name.startswith((files.TEMP, files.OLD))] == []
    for run in (tmp_path / 'out').iterdir():
        for each in checkpoint.listed(run):
            checkpoint.check(each)


def test_a_model_without_finite_losses_ends_the_command_with_76(world, tmp_path):
    model = tiny.model('llama')
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.fill_(float('inf'))
    model.save_pretrained(tmp_path / 'model')
    tiny.tokenizer().save_pretrained(tmp_path / 'model')
    argv = world.argv('lora', tmp_path / 'out', **{'--model': str(tmp_path / 'model')})
    done = world.nursery.run(argv)
    assert done.code == 76, done.output
    skipped = files.lines(run_of(tmp_path / 'out') / resume.SKIPPED)
    assert len(skipped) == 10 and f'{world.folder}/rows.jsonl:' in skipped[0]


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_with_its_code_and_a_saved_step(world, tmp_path, number, code):
    whole, _ = undisturbed(world, 'lora')
    done = world.nursery.run(world.argv('lora', tmp_path), kill_at=' 5/14 ', number=number)
    assert done.code == code, done.output
    saved = checkpoint.resolve('last', run_of(tmp_path))
    assert f'state saved in {saved}' in done.output
    assert checkpoint.step_of(saved) >= 5
    assert max(each['step'] for each in journal(run_of(tmp_path))) == checkpoint.step_of(saved)
    done = world.nursery.run(go_on(world, 'lora', tmp_path))
    assert done.code == 0, done.output
    assert end(run_of(tmp_path)) == end(whole) and journal(run_of(tmp_path)) == journal(whole)


def test_a_signal_before_the_first_step_ends_the_command_at_once(world, tmp_path):
    done = world.nursery.run(world.argv('lora', tmp_path), kill_at='rows  ', number=signal.SIGTERM)
    assert done.code == 143 and 'nothing to save' in done.output
    assert not checkpoint.listed(run_of(tmp_path))


def test_the_command_refuses_a_folder_that_another_run_owns(world, tmp_path):
    argv = world.argv('lora', tmp_path, **{'--add_version': 'false'})
    with files.lock(tmp_path):
        done = world.nursery.run(argv)
    assert done.code == 73 and 'in use by pid' in done.output
    assert world.nursery.run(argv).code == 0
    with files.lock(tmp_path):
        assert world.nursery.run(argv).code == 73


@pytest.mark.parametrize('name', ['adapter_model.safetensors', 'adapter_config.json', 'args.json'])
def test_the_command_names_a_corrupt_checkpoint_and_goes_on_from_the_one_before(world, tmp_path, name):
    whole, _ = undisturbed(world, 'lora')
    world.nursery.run(world.argv('lora', tmp_path), kill_at=' 9/14 ')
    run = run_of(tmp_path)
    newest = checkpoint.listed(run)[-1]
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(data)
    done = world.nursery.run(['sft', '--output_dir', str(tmp_path), '--resume_from_checkpoint', 'last'])
    assert done.code == 0 and f'{newest} is corrupt: {name}' in done.output, done.output
    assert end(run) == end(whole)


def test_a_run_with_other_settings_is_refused_by_the_command(world, tmp_path):
    done = world.nursery.run(world.argv('lora', tmp_path, **{'--max_steps': '2'}))
    assert done.code == 0, done.output
    argv = go_on(world, 'lora', tmp_path)
    done = world.nursery.run([*argv, '--seed', '7'])
    assert done.code == 2 and 'seed: was 42, is 7' in done.output


def test_an_adapter_without_state_is_refused_with_the_flag_that_helps(world, tmp_path):
    whole, _ = undisturbed(world, 'lora')
    last = checkpoint.resolve('last', whole)
    (tmp_path / 'adapter').mkdir()
    for name in ('adapter_config.json', 'adapter_model.safetensors', 'args.json'):
        (tmp_path / 'adapter' / name).write_bytes((last / name).read_bytes())
    argv = world.argv('lora', tmp_path / 'out', **{'--resume_from_checkpoint': str(tmp_path / 'adapter')})
    done = world.nursery.run(argv)
    assert done.code == 2 and '--resume_only_model true' in done.output
    done = world.nursery.run([*argv, '--resume_only_model', 'true', '--max_steps', '1'])
    assert done.code == 0, done.output
