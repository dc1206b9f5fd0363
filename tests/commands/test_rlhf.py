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
        (['--loss_type', 'sigmoid', 'hinge', '--loss_weights', '1'], 'loss_weights'),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_read(world, tmp_path, flags, named):
    with pytest.raises(ConfigError, match=named):
        align(world, '--output_dir', tmp_path, *flags)


def test_rows_without_a_rejected_answer_are_named(world, tmp_path):
    with pytest.raises(SwiftError, match=r'judged.jsonl:1.*rejected'):
        align(world, '--output_dir', tmp_path, rows='judged.jsonl')


WAYS = {
    'kto': ['--rlhf_type', 'kto'],
    'kto without pairs': ['--rlhf_type', 'kto', '--loss_type', 'apo_zero_unpaired'],
    'orpo': ['--rlhf_type', 'orpo'],
    'simpo': ['--rlhf_type', 'simpo'],
    'cpo': ['--rlhf_type', 'cpo', '--loss_type', 'hinge'],
    'rm': ['--rlhf_type', 'rm', '--center_rewards_coefficient', '0.01'],
    'dpo aot': ['--loss_type', 'aot'],
    'dpo mixed': ['--loss_type', 'sigmoid', 'bco_pair', 'sft', '--loss_weights', '0.8', '0.2', '1'],
    'dpo full': ['--tuner_type', 'full', '--learning_rate', '1e-3'],
    'dpo 4 bit': ['--quant_bits', '4', '--bnb_4bit_compute_dtype', 'float32'],
    'dpo recomputed': ['--gradient_checkpointing', 'true'],
    'dpo packed': ['--packing', 'true', '--packing_length', '256'],
}


@pytest.mark.parametrize('way', WAYS)
def test_every_way_of_alignment_lowers_its_loss_whatever_the_micro_batches(world, tmp_path, way):
    rows = 'judged.jsonl' if way.startswith('kto') else 'pairs.jsonl'
    flags = ['--lora_dropout', '0', '--lr_scheduler_type', 'constant', *WAYS[way]]
    found = records(align(world, '--output_dir', tmp_path / 'a', *flags, rows=rows, steps=8))
    assert min(each['loss'] for each in found[-3:]) < found[0]['loss']
    split = ['--max_tokens_per_batch', '1'] if 'packed' not in way else ['--max_tokens_per_batch', '256']
    other = records(align(world, '--output_dir', tmp_path / 'b', *flags, *split, rows=rows, steps=2))
    for step, expected in zip(other, found, strict=False):
        for name in step.keys() & expected.keys() - {'tokens/s', 'memory(GiB)', 'elapsed_time', 'remaining_time'}:
            if isinstance(step[name], float):
                assert step[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-5), name


def test_steps_of_solutions_are_judged_one_by_one(world, tmp_path):
    rows = [
        {
            'prompt': f'{i} + 1 = ?',
            'completions': [f'Start at {i}.', 'Go on.', f'So {i + i % 2}.'],
            'labels': [1, 1, i % 2],
        }
        for i in range(24)
    ]
    (world / 'steps.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    flags = ['--rlhf_type', 'prm', '--tuner_type', 'full', '--learning_rate', '1e-3']
    found = records(align(world, '--output_dir', tmp_path, *flags, rows='steps.jsonl', steps=12))
    assert min(each['loss'] for each in found[-3:]) < found[0]['loss'] and 'accuracy' in found[0]


def test_a_reward_model_is_opened_by_plain_transformers_and_scores_the_same(world, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    flags = ['--rlhf_type', 'rm', '--tuner_type', 'full', '--learning_rate', '1e-3', '--split_dataset_ratio', '0.2']
    last = align(world, '--output_dir', tmp_path, *flags, steps=8)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(last), AutoTokenizer.from_pretrained(last)
    assert model.config.num_labels == 1
    rows = [json.loads(line) for line in (last.parent / 'val_dataset.jsonl').read_text().splitlines()]
    right, margins = 0, 0.0
    for row in rows:
        turns = row['messages']
        both = []
        for answer in (turns[-1]['content'], row['rejected_messages'][-1]['content']):
            text = tokenizer.apply_chat_template([*turns[:-1], {**turns[-1], 'content': answer}], tokenize=False)
            ids = tokenizer(text, add_special_tokens=False, return_tensors='pt')['input_ids']
            with torch.no_grad():
                both.append(float(model(input_ids=ids).logits))
        right += both[0] > both[1]
        margins += both[0] - both[1]
    told = [json.loads(line) for line in (last.parent / 'logging.jsonl').read_text().splitlines()]
    told = [each for each in told if 'eval_margin' in each][-1]
    assert told['eval_margin'] == pytest.approx(margins / len(rows), rel=1e-4)
    assert told['eval_accuracy'] == pytest.approx(right / len(rows))
