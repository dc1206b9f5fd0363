"""TRL's SFTTrainer, or its DPOTrainer."""

from watch import begin, micro, quiet, recompute, rows_of, watch

quiet()
job, events = begin()

from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(job['model'])
if job['stage'] in ('sft', 'dpo'):
    tokenizer.chat_template = job['chat_template']
batch, accumulation = micro(job)
packing = job['options'].get('packing', False) or job['packing']
padding_free = job['options'].get('padding_free', False) and not packing
adapter = LoraConfig(r=job['rank'], lora_alpha=job['alpha'], target_modules='all-linear', task_type='CAUSAL_LM')
common = {
    'max_steps': job['steps'], 'per_device_train_batch_size': batch, 'gradient_accumulation_steps': accumulation,
    'learning_rate': job['learning_rate'], 'weight_decay': job['weight_decay'], 'adam_beta2': job['adam_beta2'],
    'lr_scheduler_type': 'cosine', 'bf16': True, 'use_cpu': job['device'] == 'cpu', 'logging_steps': 1,
    'save_strategy': 'no', 'report_to': [], 'seed': job['seed'], 'disable_tqdm': True,
    'model_init_kwargs': {'dtype': 'bfloat16'}, **recompute(job),
}  # fmt: skip
rows = rows_of(job)
if job['stage'] == 'dpo':
    rows = [
        {
            'prompt': row['messages'][:-1],
            'chosen': row['messages'][-1:],
            'rejected': [{'role': 'assistant', 'content': row['rejected_response']}],
        }
        for row in rows
    ]
    trainer, arguments = DPOTrainer, DPOConfig(job['scratch'], max_length=job['longest'], **common)
else:
    trainer, arguments = SFTTrainer, SFTConfig(
        job['scratch'],
        max_length=None if padding_free else job['max_length'],  # rows fit; TRL refuses both at once
        assistant_only_loss=job['stage'] == 'sft', packing=packing, padding_free=padding_free, **common,
    )  # fmt: skip
watch(job, events)
trainer(
    model=job['model'], args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    peft_config=adapter if job['tuner'] == 'lora' else None,
).train()  # fmt: skip
