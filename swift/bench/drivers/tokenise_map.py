"""Rows to tokens with masks as scripts do it: ``datasets.map`` and ``apply_chat_template`` with generation marks."""

import time

from watch import begin, quiet, rows_of

quiet()
job, events = begin()

import datasets  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

datasets.disable_progress_bars()
datasets.disable_caching()
tokenizer = AutoTokenizer.from_pretrained(job['model'])


def encode(batch):
    """Ids and masks of a batch of rows."""
    made = tokenizer.apply_chat_template(
        batch['messages'], chat_template=job['chat_template'], return_dict=True, return_assistant_tokens_mask=True
    )
    return {'input_ids': made['input_ids'], 'mask': made['assistant_masks']}


data = datasets.Dataset.from_list(rows_of(job))
rates, supervised = [], 0
for _ in range(job['tries']):
    start = time.perf_counter()
    done = data.map(encode, batched=True, remove_columns=['messages'])
    rates.append(len(data) / (time.perf_counter() - start))
    supervised = sum(sum(mask) for mask in done['mask'])
events.write(result={'rates': rates, 'check': supervised})
