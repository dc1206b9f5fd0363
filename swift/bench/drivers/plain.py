"""transformers' Trainer and peft, with twenty lines around them: what people write without a framework."""

from watch import begin, micro, quiet, recompute, rows_of, watch

quiet()
job, events = begin()

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments  # noqa: E402


def encode(row):
    """Ids and labels of a row: the answer and its stop token are learnt, or all of a text."""
    if 'text' in row:
        ids = tokenizer(row['text'])['input_ids'] + [tokenizer.eos_token_id]
        return {'input_ids': ids, 'labels': ids}
    made = tokenizer.apply_chat_template(
        row['messages'], chat_template=job['chat_template'], return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = made['input_ids'], made['assistant_masks']
    return {'input_ids': ids, 'labels': [i if m else -100 for i, m in zip(ids, mask, strict=True)]}


def collate(rows):
    """A padded batch."""
    width = max(len(row['input_ids']) for row in rows)
    fill = lambda name, value: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
    mask = torch.tensor([[1] * len(row['input_ids']) + [0] * (width - len(row['input_ids'])) for row in rows])
    return {'input_ids': fill('input_ids', 0), 'labels': fill('labels', -100), 'attention_mask': mask}


def blocks(encoded):
    """All rows end to end, cut into blocks of ``max_length``, as scripts for pre-training do."""
    ids = [i for row in encoded for i in row['input_ids']]
    size = job['max_length']
    whole = range(0, len(ids) - size + 1, size)
    return [{'input_ids': ids[at : at + size], 'labels': ids[at : at + size]} for at in whole]


tokenizer = AutoTokenizer.from_pretrained(job['model'])
data = [encode(row) for row in rows_of(job)]
batch, accumulation = micro(job)
if job['stage'] == 'pt' and job['packing']:
    data, batch, accumulation = blocks(data), job['packs_per_step'], 1
model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=torch.bfloat16)
if job['tuner'] == 'lora':
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        model, LoraConfig(r=job['rank'], lora_alpha=job['alpha'], target_modules='all-linear', task_type='CAUSAL_LM')
    )
arguments = TrainingArguments(
    job['scratch'], max_steps=job['steps'], per_device_train_batch_size=batch,
    gradient_accumulation_steps=accumulation, learning_rate=job['learning_rate'], weight_decay=job['weight_decay'],
    adam_beta2=job['adam_beta2'], lr_scheduler_type='cosine', bf16=True, use_cpu=job['device'] == 'cpu',
    logging_steps=1, save_strategy='no', report_to=[], seed=job['seed'], disable_tqdm=True,
    remove_unused_columns=False, **recompute(job),
)  # fmt: skip
watch(job, events)
Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()
