"""ms-swift's own command, in this process; its template made to train what the model's chat template says."""

import json
import os
import runpy
import sys
from importlib import import_module

from watch import begin, micro, quiet, recompute, rows_of, watch

quiet()
job, events = begin()

NAME = 'bench'


def register(dialect):
    """A template with the words of the model's own, and the newline after the stop token left out, not trained."""
    room = import_module('swift' + '.template')
    room.register_template(
        room.TemplateMeta(
            NAME,
            prefix=[dialect['begin']] if dialect['begin'] else [],
            prompt=[dialect['user'] + '{{QUERY}}' + dialect['answer']],
            chat_sep=[dialect['stop'] + dialect['after']],
            suffix=[dialect['stop']],
            system_prefix=[dialect['begin'] + dialect['system'] + '{{SYSTEM}}' + dialect['system_end']],
            default_system=dialect['default_system'],
        )
    )


def pretraining(rows):
    """A file of texts in the form that ms-swift documents for pre-training."""
    path = os.path.join(job['scratch'], 'texts.jsonl')
    with open(path, 'w', encoding='utf-8') as file:
        for row in rows:
            file.write(json.dumps({'messages': [{'role': 'assistant', 'content': row['text']}]}) + '\n')
    return path


batch, accumulation = micro(job)
flags = {
    'model': job['model'], 'model_type': job['model_type'], 'dataset': job['rows'], 'output_dir': job['scratch'],
    'tuner_type': job['tuner'], 'lora_rank': job['rank'], 'lora_alpha': job['alpha'], 'lora_dropout': 0,
    'torch_dtype': 'bfloat16', 'per_device_train_batch_size': batch, 'gradient_accumulation_steps': accumulation,
    'max_steps': job['steps'], 'max_length': job['longest'], 'learning_rate': job['learning_rate'],
    'weight_decay': job['weight_decay'], 'adam_beta2': job['adam_beta2'], 'seed': job['seed'],
    'dataset_shuffle': False, 'train_dataloader_shuffle': False, 'save_strategy': 'no', 'report_to': 'none',
    'logging_steps': 1, 'add_version': False, 'split_dataset_ratio': 0, 'use_cpu': job['device'] == 'cpu',
    **recompute(job),
}  # fmt: skip
if job['stage'] == 'dpo':
    flags['rlhf_type'] = 'dpo'
if job['stage'] == 'pt':
    flags['dataset'] = pretraining(rows_of(job))
if job['dialect']:
    register(job['dialect'])
    flags['template'] = NAME
words = [
    word
    for name, value in flags.items()
    for word in (f'--{name}', str(value).lower() if value in (True, False) and isinstance(value, bool) else str(value))
]
watch(job, events)
sys.argv = [sys.argv[0], *words]
runpy.run_module('swift.cli.' + {'dpo': 'rlhf'}.get(job['stage'], job['stage']), run_name='__main__')
