"""swift rlhf from the command line's words: preference rows, a reference, adapters that others open."""

import json
import math

import pytest

from swift.commands.rlhf import rlhf_main
from swift.commands.sft import sft_main
from swift.core.errors import ConfigError, SwiftError
from tests import tiny

ADAPTER = 'adapter_model.safetensors'
QUESTIONS = ['Who are you?', 'What is the capital of France?', '12 + 30 = ?', 'def add', '你是谁？', 'Thanks!']
GOOD = ['I am a small language model.', 'The capital of France is Paris.', '42', 'return a + b', '语言模型。', 'Bye.']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('rlhf')
    tiny.folder(home / 'model')
    with (home / 'pairs.jsonl').open('w') as pairs, (home / 'judged.jsonl').open('w') as judged:
        for i in range(24):
            question, good, bad = QUESTIONS[i % 6], GOOD[i % 6], f'No idea {i}'
            turns = [{'role': 'user', 'content': f'{question} ({i})'}, {'role': 'assistant', 'content': good}]
            pairs.write(json.dumps({'messages': turns, 'rejected_response': bad + '!'}) + '\n')
            judged.write(json.dumps({'messages': turns, 'label': i % 3 != 0}) + '\n')
    return home


def align(world, *flags, rows='pairs.jsonl', steps=3, main=rlhf_main):
    base = f'--model {world / "model"} --dataset {world / rows} --report_to none --lint warn --torch_dtype float32 '
    base += f'--store_dir {world / "store"} --per_device_train_batch_size 2 --logging_steps 1 --learning_rate 1e-2 '
    words = [*base.split(), '--gradient_accumulation_steps', '2', *map(str, flags)]
    return main(words if steps is None else [*words, '--max_steps', str(steps)])


def records(checkpoint):
    lines = (checkpoint.parent / 'logging.jsonl').read_text().splitlines()
    return [record for record in map(json.loads, lines) if 'loss' in record]


def test_dpo_starts_at_log_two_and_learns_to_prefer(world, tmp_path):
    flags = ['--lora_dropout', '0', '--learning_rate', '3e-2']
    found = records(align(world, '--output_dir', tmp_path, *flags, steps=20))
    assert found[0]['loss'] == pytest.approx(math.log(2), abs=1e-6)
    assert found[0]['rewards/margins'] == pytest.approx(0, abs=1e-6)
    assert found[-1]['loss'] < 0.6 and found[-1]['rewards/accuracies'] == 1.0
    for name in ('rewards/chosen', 'rewards/rejected', 'logps/chosen', 'logps/rejected'):
        assert math.isfinite(found[-1][name])


def test_sharing_prefixes_and_splitting_steps_change_nothing(world, tmp_path):
    runs = {
        'shared': [],
        'apart': ['--prefix_sharing', 'false'],
        'one by one': ['--attn_impl', 'eager'],
        'split': ['--max_tokens_per_batch', '80'],
        'packed': ['--max_tokens_per_batch', '4096', '--per_device_train_batch_size', '4'],
    }
    flags = ('--lora_dropout', '0', '--gradient_accumulation_steps')
    found = {
        name: records(align(world, '--output_dir', tmp_path / name, *flags, 1 if name == 'packed' else 2, *more))
        for name, more in runs.items()
    }
    for name, steps in found.items():
        for step, expected in zip(steps, found['shared'], strict=True):
            assert step['loss'] == pytest.approx(expected['loss'], rel=1e-5), name
            assert step['grad_norm'] == pytest.approx(expected['grad_norm'], rel=1e-4), name


@pytest.mark.parametrize('kind', ['full', 'ref_model', 'precomputed', 'precomputed full'])
def test_every_reference_that_is_the_start_gives_the_same_run(world, tmp_path, kind):
    full = ['--tuner_type', 'full']
    flags = {
        'full': full,
        'ref_model': ['--ref_model', world / 'model'],
        'precomputed': ['--precompute_ref_log_probs', 'true'],
        'precomputed full': [*full, '--precompute_ref_log_probs', 'true', '--split_dataset_ratio', '0.2'],
    }[kind]
    found = records(
        align(world, '--output_dir', tmp_path, '--lora_dropout', '0', '--num_train_epochs', '1', *flags, steps=None)
    )
    assert found[0]['loss'] == pytest.approx(math.log(2), abs=1e-5)
    if 'full' not in kind:
        plain = align(world, '--output_dir', tmp_path, '--lora_dropout', '0', '--num_train_epochs', '1', steps=None)
        for step, expected in zip(found, records(plain), strict=True):
            assert step['loss'] == pytest.approx(expected['loss'], rel=1e-5)


def test_alignment_goes_on_from_an_adapter_whose_start_is_the_reference(world, tmp_path):
    start = align(world, '--output_dir', tmp_path / 'sft', '--lora_dropout', '0', main=sft_main, steps=4)
    both = ['--adapters', start, '--ref_adapters', start, '--lora_dropout', '0']
    last = align(world, '--output_dir', tmp_path / 'dpo', *both)
    found = records(last)
    assert found[0]['loss'] == pytest.approx(math.log(2), abs=1e-6)
    assert sorted(path.name for path in last.iterdir() if path.suffix == '.safetensors') == [
        'adapter_model.safetensors'
    ]
    without = records(align(world, '--output_dir', tmp_path / 'other', '--adapters', start, '--lora_dropout', '0'))
    assert abs(without[0]['loss'] - math.log(2)) > 1e-4


def test_a_resumed_run_takes_the_same_steps(world, tmp_path):
    whole = align(world, '--output_dir', tmp_path / 'whole', '--save_steps', '2', steps=4)
    last = align(
        world, '--resume_from_checkpoint', whole.parent / 'checkpoint-2', '--output_dir', tmp_path / 'on', steps=4
    )
    assert records(whole) == records(last) or [r['loss'] for r in records(whole)] == [r['loss'] for r in records(last)]
    for name in ('adapter_model.safetensors',):
        assert (whole / name).read_bytes() == (last / name).read_bytes()


@pytest.mark.parametrize(
    'flags, named',
    [
        (['--loss_type', 'sigmoit'], 'loss_type'),
        (['--ref_adapters', 'a', 'b'], 'ref_adapters'),
        (['--rlhf_type', 'grpo'], 'grpo'),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_read(world, tmp_path, flags, named):
    with pytest.raises(ConfigError, match=named):
        align(world, '--output_dir', tmp_path, *flags)


def test_rows_without_a_rejected_answer_are_named(world, tmp_path):
    with pytest.raises(SwiftError, match=r'judged.jsonl:1.*rejected'):
        align(world, '--output_dir', tmp_path, rows='judged.jsonl')
