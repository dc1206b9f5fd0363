"""swift rlhf --rlhf_type gkd from the command line's words: teachers, completions of the student's own, resumption."""

import json

import pytest

from swift.commands.rlhf import rlhf_main
from swift.commands.sft import sft_main
from swift.core.errors import ConfigError
from tests import tiny


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('gkd')
    tiny.folder(home / 'model')
    tiny.folder(home / 'teacher', 'qwen3', seed=5, hidden_size=48)
    tiny.rows(home / 'rows.jsonl', 16)
    return home


def run(world, *flags, main=rlhf_main, steps=3, **given):
    method = ['--rlhf_type', 'gkd'] if main is rlhf_main else []
    base = f'--model {world / "model"} --dataset {world / "rows.jsonl"} --report_to none --lint warn '
    base += f'--torch_dtype float32 --store_dir {world / "store"} --per_device_train_batch_size 2 --logging_steps 1 '
    base += f'--learning_rate 1e-2 --gradient_accumulation_steps 2 --max_steps {steps} --max_length 96 '
    return main([*base.split(), *method, *map(str, flags)])


def distil(world, *flags, lmbda=0, **given):
    return run(world, '--lmbda', lmbda, '--max_completion_length', 12, '--lora_dropout', 0, *flags, **given)


def records(checkpoint):
    lines = (checkpoint.parent / 'logging.jsonl').read_text().splitlines()
    return [record for record in map(json.loads, lines) if 'loss' in record]


def losses(checkpoint):
    return [record['loss'] for record in records(checkpoint)]


def test_a_student_comes_nearer_to_its_teacher(world, tmp_path):
    flags = ('--teacher_model', world / 'teacher', '--tuner_type', 'full', '--val_dataset', world / 'rows.jsonl')
    found = records(distil(world, '--output_dir', tmp_path, *flags, '--eval_steps', 12, steps=12))
    assert found[-1]['loss'] < 0.6 * found[0]['loss']
    assert found[0]['loss'] == pytest.approx(found[0]['divergence'])


def test_packing_and_micro_batches_change_nothing(world, tmp_path):
    flags = ['--teacher_model', world / 'teacher', '--sft_alpha', 0.2]
    variants = {'plain': [], 'split': ['--max_tokens_per_batch', 64], 'one by one': ['--attn_impl', 'eager']}
    found = {
        name: records(distil(world, '--output_dir', tmp_path / name, *flags, *more)) for name, more in variants.items()
    }
    for name, steps in found.items():
        for step, expected in zip(steps, found['plain'], strict=True):
            assert step['loss'] == pytest.approx(expected['loss'], rel=1e-5), name
            assert step['grad_norm'] == pytest.approx(expected['grad_norm'], rel=1e-3), name
            assert step['sft_loss'] == pytest.approx(expected['sft_loss'], rel=1e-5), name


@pytest.mark.parametrize('apart', [False, True], ids=['on the model itself', 'on a model of its own'])
def test_adapters_of_the_teacher_are_really_used(world, tmp_path, apart):
    adapter = run(world, '--output_dir', tmp_path / 'sft', '--learning_rate', '5e-2', main=sft_main, steps=6)
    teacher = ['--tuner_type', 'full', '--learning_rate', '1e-3'] if apart else []
    base = losses(distil(world, '--output_dir', tmp_path / 'base', '--teacher_model', world / 'model', *teacher))
    found = losses(distil(world, '--output_dir', tmp_path / 'gkd', '--teacher_adapters', adapter, *teacher))
    assert base[0] == pytest.approx(0, abs=1e-5)
    assert found[0] > 1e-3
    assert found[-1] < found[0]


def test_the_student_writes_all_completions_with_lmbda_one_and_none_with_zero(world, tmp_path):
    flags = ['--teacher_model', world / 'teacher', '--sft_alpha', 0.5]
    own = records(distil(world, '--output_dir', tmp_path / 'own', *flags, lmbda=1))
    assert all(record['on_policy'] == 1 and record['sft_loss'] == 0 for record in own)
    given = records(distil(world, '--output_dir', tmp_path / 'given', *flags))
    assert all('on_policy' not in record and record['sft_loss'] > 0 for record in given)


def test_packs_of_rows_are_written_anew_row_by_row(world, tmp_path):
    flags = [
        '--teacher_model',
        world / 'teacher',
        '--packing',
        'true',
        '--packing_length',
        128,
        '--gkd_logits_topk',
        16,
    ]
    found = records(distil(world, '--output_dir', tmp_path, *flags, '--torch_dtype', 'bfloat16', lmbda=1, steps=2))
    assert all(record['on_policy'] == 1 and record['loss'] > 0 for record in found)


@pytest.mark.parametrize('tuner', ['lora', 'full'])
def test_a_run_that_samples_goes_on_as_if_it_had_never_stopped(world, tmp_path, tuner):
    flags = ['--teacher_model', world / 'teacher', '--seq_kd', 'true', '--tuner_type', tuner, '--save_steps', 3]
    whole = distil(world, '--output_dir', tmp_path / 'whole', *flags, lmbda=0.5, steps=6)
    first = whole.parent / 'checkpoint-3'
    again = distil(
        world, '--output_dir', tmp_path / 'again', *flags, '--resume_from_checkpoint', first, lmbda=0.5, steps=6
    )
    assert losses(again) == losses(whole)
    assert {record.get('on_policy', 0) for record in records(whole)} == {0, 1}


WRONG = {
    'teacher_model is missing': [],
    'keep one': ['--teacher_model', 'x', '--teacher_model_server', 'http://localhost:1', '--gkd_logits_topk', 8],
    'gkd_logits_topk 64': ['--teacher_model_server', 'http://localhost:1'],
    'reverse KL': ['--teacher_model', 'x', '--beta', 2],
    'one adapter': ['--teacher_adapters', 'x', 'y'],
}


@pytest.mark.parametrize('message', WRONG)
def test_what_cannot_work_is_said_before_anything_is_loaded(world, tmp_path, message):
    with pytest.raises(ConfigError, match=message):
        distil(world, '--output_dir', tmp_path, *WRONG[message])


def test_a_teacher_without_a_student_is_refused(world, tmp_path):
    with pytest.raises(ConfigError, match='belongs to --rlhf_type gkd'):
        run(world, '--output_dir', tmp_path, '--rlhf_type', 'dpo', '--teacher_model', world / 'teacher')


def test_a_teacher_of_other_tokens_is_refused(world, tmp_path):
    tokenizer = tiny.folder(tmp_path / 'stranger') / 'tokenizer.json'
    inner = json.loads(tokenizer.read_text())
    vocabulary = inner['model']['vocab']
    a, b = (token for token, id in vocabulary.items() if id in (300, 301))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    tokenizer.write_text(json.dumps(inner))
    with pytest.raises(ConfigError, match='does not share the tokens'):
        distil(world, '--output_dir', tmp_path / 'run', '--teacher_model', tmp_path / 'stranger')
