"""LLaMA-Factory's own entry, in this process; its template made of the words of the model's own."""

import json
import os

from watch import begin, micro, quiet, watch

quiet()
os.environ['DISABLE_VERSION_CHECK'] = '1'
job, events = begin()

from llamafactory.data import template as templates  # noqa: E402
from llamafactory.data.formatter import StringFormatter  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402

NAME = 'bench'


def register(dialect):
    """A template with the words of the model's own."""
    templates.register_template(
        name=NAME,
        format_prefix=templates.EmptyFormatter(slots=[dialect['begin']] if dialect['begin'] else []),
        format_user=StringFormatter(slots=[dialect['user'] + '{{content}}' + dialect['answer']]),
        format_assistant=StringFormatter(slots=['{{content}}' + dialect['stop']]),
        format_system=StringFormatter(slots=[dialect['system'] + '{{content}}' + dialect['system_end']]),
        default_system=dialect['default_system'] or '',
        stop_words=[dialect['stop']],
    )


def write_data():
    """The rows as a dataset of LLaMA-Factory: a folder with dataset_info.json."""
    info = {'file_name': os.path.abspath(job['rows'])}
    if job['stage'] == 'pt':
        info['columns'] = {'prompt': 'text'}
    else:
        tags = {'role_tag': 'role', 'content_tag': 'content', 'user_tag': 'user', 'assistant_tag': 'assistant'}
        info |= {'formatting': 'sharegpt', 'columns': {'messages': 'messages'}, 'tags': tags | {'system_tag': 'system'}}
    with open(os.path.join(job['scratch'], 'dataset_info.json'), 'w', encoding='utf-8') as file:
        json.dump({NAME: info}, file)


batch, accumulation = micro(job)
arguments = {
    'stage': job['stage'], 'do_train': True, 'model_name_or_path': job['model'], 'dataset': NAME,
    'dataset_dir': job['scratch'], 'template': NAME if job['dialect'] else 'default', 'output_dir': job['scratch'],
    'finetuning_type': job['tuner'], 'cutoff_len': job['max_length'], 'max_steps': job['steps'],
    'per_device_train_batch_size': batch, 'gradient_accumulation_steps': accumulation, 'bf16': True,
    'learning_rate': job['learning_rate'], 'weight_decay': job['weight_decay'], 'adam_beta2': job['adam_beta2'],
    'lr_scheduler_type': 'cosine', 'seed': job['seed'], 'logging_steps': 1, 'save_strategy': 'no',
    'report_to': 'none', 'disable_shuffling': True, 'overwrite_cache': True, 'use_cpu': job['device'] == 'cpu',
    'pure_bf16': False, 'packing': False, 'dataloader_num_workers': 0,
}  # fmt: skip
if job['tuner'] == 'lora':
    arguments |= {'lora_rank': job['rank'], 'lora_alpha': job['alpha'], 'lora_dropout': 0.0, 'lora_target': 'all'}
if 'recompute' in job['options']:
    arguments['disable_gradient_checkpointing'] = not job['options']['recompute']
if job['options'].get('packing') or (job['packing'] and job['stage'] == 'pt'):
    arguments |= {'packing': True, 'neat_packing': job['stage'] == 'sft'}
if job['dialect']:
    register(job['dialect'])
write_data()
watch(job, events)
run_exp(arguments)
