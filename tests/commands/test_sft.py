"""swift sft and swift pt from the command line's words to folders that others open."""

import json

import pytest
import torch

from swift.commands.pt import pt_main
from swift.commands.sft import sft_main
from swift.core.errors import SwiftError
from tests import tiny


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A model folder that no catalogue names, rows, and a cache of their own."""
    home = tmp_path_factory.mktemp('world')
    tiny.folder(home / 'model')
    tiny.rows(home / 'rows.jsonl')
    (home / 'text.jsonl').write_text(
        '\n'.join(json.dumps({'text': ' '.join(tiny.CORPUS[i % 4 :] * (1 + i % 3))}) for i in range(12))
    )
    return home


def train(world, *flags, main=sft_main, rows='rows.jsonl', steps=3):
    base = f'--model {world / "model"} --dataset {world / rows} --max_steps {steps} --report_to none --lint warn '
    base += f'--store_dir {world / "store"} --per_device_train_batch_size 2 --logging_steps 1 --learning_rate 1e-2'
    return main([*base.split(), '--gradient_accumulation_steps', '2', *map(str, flags)])


def losses(checkpoint):
    lines = (checkpoint.parent / 'logging.jsonl').read_text().splitlines()
    return [record['loss'] for record in map(json.loads, lines) if 'loss' in record]


def next_tokens(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None] * 7 % 400).logits


def test_a_lora_run_leaves_a_plain_peft_folder(world, tmp_path):
    from peft import PeftModel

    checkpoint = train(world, '--output_dir', tmp_path, '--lora_rank', 4)
    assert checkpoint.name == 'checkpoint-3'
    assert (checkpoint.parent / 'last').resolve() == checkpoint
    assert json.loads((checkpoint / 'args.json').read_text())['lora_rank'] == 4
    opened = PeftModel.from_pretrained(tiny.model(), checkpoint)
    assert not torch.allclose(next_tokens(opened), next_tokens(tiny.model()), atol=1e-4)


def test_a_full_run_leaves_a_plain_transformers_folder(world, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = train(world, '--output_dir', tmp_path, '--tuner_type', 'full')
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert not torch.allclose(next_tokens(model), next_tokens(tiny.model()), atol=1e-4)
    assert AutoTokenizer.from_pretrained(checkpoint).chat_template == tiny.CHATML


VARIANTS = {
    'packing': ['--packing', 'true', '--packing_length', '128'],
    'streaming': ['--streaming', 'true'],
    'streaming packs': ['--streaming', 'true', '--packing', 'true', '--packing_length', '128'],
    'bf16': ['--torch_dtype', 'bfloat16'],
    'fp16': ['--torch_dtype', 'float16'],
    'autocast': ['--torch_dtype', 'float32', '--bf16', 'true'],
    'dora': ['--use_dora', 'true'],
    'rslora': ['--use_rslora', 'true'],
    'pissa': ['--init_weights', 'pissa'],
    'lora+': ['--lorap_lr_ratio', '16'],
    'neftune': ['--neftune_noise_alpha', '5'],
    'checkpointing': ['--gradient_checkpointing', 'true'],
    'plain attention': ['--attn_impl', 'eager'],
    'token budget': ['--max_tokens_per_batch', '64'],
    'new tokens': ['--new_special_tokens', '<call>', '</call>', '--modules_to_save', 'embed_tokens', 'lm_head'],
    'freeze': ['--tuner_type', 'full', '--freeze_parameters_ratio', '0.3'],
    'schedule': ['--lr_scheduler_type', 'warmup_stable_decay', '--warmup_ratio', '0.3'],
    'sgd': ['--tuner_type', 'full', '--optim', 'sgd'],
    '4 bit': ['--quant_bits', '4', '--bnb_4bit_compute_dtype', 'float32'],
    '8 bit': ['--quant_bits', '8'],
    '8 bit Adam': ['--optim', 'adamw_8bit'],
}


@pytest.mark.parametrize('case', VARIANTS)
def test_every_way_of_training_lowers_the_loss(world, tmp_path, case):
    checkpoint = train(world, '--output_dir', tmp_path, *VARIANTS[case], steps=6)
    found = losses(checkpoint)
    assert len(found) == 6
    assert min(found[1:]) < found[0]
    assert all(0 < loss < 10 for loss in found)


def test_plain_text_is_trained_on_whole(world, tmp_path):
    flags = ['--max_length', '32', '--truncation_strategy', 'split']
    checkpoint = train(world, '--output_dir', tmp_path, *flags, main=pt_main, rows='text.jsonl')
    assert len(losses(checkpoint)) == 3


def test_evaluation_keeps_the_best_and_writes_the_rows_that_were_cut_off(world, tmp_path):
    flags = ['--split_dataset_ratio', '0.2', '--save_steps', '2', '--save_total_limit', '1']
    checkpoint = train(world, '--output_dir', tmp_path, *flags, steps=6)
    run = checkpoint.parent
    records = [json.loads(line) for line in (run / 'logging.jsonl').read_text().splitlines()]
    evaluated = {record['step']: record['eval_loss'] for record in records if 'eval_loss' in record}
    assert set(evaluated) == {2, 4, 6}
    assert (run / 'best').resolve().name == f'checkpoint-{min(evaluated, key=evaluated.get)}'
    assert len((run / 'val_dataset.jsonl').read_text().splitlines()) == 7  # a fifth of 32 rows, rounded up
    assert (run / 'images' / 'train_loss.png').stat().st_size > 1000


def test_every_problem_of_a_command_line_comes_in_one_report(world, tmp_path):
    with pytest.raises(SwiftError) as caught:
        train(world, '--output_dir', tmp_path, '--lora_rnak', 4, '--tuner_type', 'lroa', '--deepspeed', 'zero3')
    text = str(caught.value)
    assert 'lora_rank' in text
    assert 'lora' in text
    assert 'deepspeed' in text


def test_resume_only_model_starts_from_the_weights_of_a_folder(world, tmp_path):
    first = train(world, '--output_dir', tmp_path / 'a', steps=4)
    second = train(
        world, '--output_dir', tmp_path / 'b', '--resume_from_checkpoint', first, '--resume_only_model', 'true',
        '--learning_rate', '1e-9', steps=2,
    )  # fmt: skip
    from safetensors.torch import load_file

    one, two = (load_file(each / 'adapter_model.safetensors') for each in (first, second))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_losses_are_reported_by_the_channel_of_rows(world, tmp_path):
    lines = (world / 'rows.jsonl').read_text(encoding='utf-8').splitlines()
    rows = [
        json.loads(line) | ({'channel': ('math', 'code')[i % 3]} if i % 3 < 2 else {}) for i, line in enumerate(lines)
    ]
    (world / 'channels.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    flags = ('--enable_channel_loss', 'true', '--save_strategy', 'no', '--output_dir', tmp_path, '--val_dataset')
    train(world, *flags, world / 'channels.jsonl', '--eval_strategy', 'steps', '--eval_steps', 3, rows='channels.jsonl')
    (journal,) = tmp_path.rglob('logging.jsonl')
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {'loss_math', 'loss_code', 'loss_None'} <= set().union(*records)
    assert any({'eval_loss_math', 'eval_loss_code', 'eval_loss_None'} <= record.keys() for record in records)


def test_dynamic_fine_tuning_trains(world, tmp_path):
    plain = losses(train(world, '--output_dir', tmp_path / 'plain'))
    dynamic = losses(train(world, '--output_dir', tmp_path / 'dft', '--enable_dft_loss', 'true'))
    assert 0 < dynamic[0] < plain[0] / 50  # tokens of a random model have a probability of about 1/400


def test_a_rehearsal_changes_no_loss(world, tmp_path, caplog):
    found = []
    for asked in ('false', 'true'):
        with caplog.at_level('INFO'):
            checkpoint = train(
                world, '--output_dir', tmp_path / asked, '--rehearse', asked, '--neftune_noise_alpha', '5',
                '--max_tokens_per_batch', '128', '--max_steps', '-1', '--num_train_epochs', '1',
            )  # fmt: skip
        assert ('rehearsal' in caplog.text) == (asked == 'true')
        found.append(losses(checkpoint))
    assert found[0] == found[1] and len(found[0]) > 1
