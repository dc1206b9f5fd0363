"""The whole chain against TRL's SFTTrainer: the same rows, the same ten losses and gradient norms."""

import json

import pytest

from swift.commands.sft import sft_main
from tests import tiny

# The tiny world's ChatML with the answer and its stop token marked, as TRL wants it for assistant_only_loss.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)


def ours(model, rows, tmp_path, *flags):
    sft_main(
        f'--model {model} --dataset {rows} --output_dir {tmp_path / "ours"} --add_version false --tuner_type full '
        '--max_steps 10 --learning_rate 1e-3 --per_device_train_batch_size 2 --gradient_accumulation_steps 2 '
        '--dataset_shuffle false --train_dataloader_shuffle false --logging_steps 1 --save_strategy no '
        f'--report_to none --lint warn --store_dir {tmp_path / "store"}'.split()
        + list(flags)
    )
    return [json.loads(line) for line in (tmp_path / 'ours' / 'logging.jsonl').read_text().splitlines()]


def theirs(model, rows, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = MARKED
    args = SFTConfig(
        output_dir=str(tmp_path / 'theirs'), max_steps=10, learning_rate=1e-3, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, assistant_only_loss=True, logging_steps=1, save_strategy='no', report_to='none',
        use_cpu=True, bf16=False, gradient_checkpointing=False, shuffle_dataset=False, lr_scheduler_type='cosine',
        weight_decay=0.1, adam_beta2=0.95, train_sampling_strategy='sequential', disable_tqdm=True, max_length=None,
    )  # fmt: skip
    data = Dataset.from_list([json.loads(line) for line in rows.read_text().splitlines()])
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model), args, train_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    return [record for record in trainer.state.log_history if 'loss' in record]


@pytest.mark.parametrize('flags', [(), ('--max_tokens_per_batch', '40')], ids=['as given', 'split micro-batches'])
def test_ten_losses_and_gradient_norms_equal_trl(tmp_path, flags):
    model, rows = tiny.folder(tmp_path / 'model'), tiny.rows(tmp_path / 'rows.jsonl', 60)
    found, expected = ours(model, rows, tmp_path, *flags), theirs(model, rows, tmp_path)
    assert len(found) == len(expected) == 10
    for one, two in zip(found, expected, strict=True):
        assert one['loss'] == pytest.approx(two['loss'], rel=1e-5)
        assert one['grad_norm'] == pytest.approx(two['grad_norm'], rel=1e-4)
