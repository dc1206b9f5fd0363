"""``swift sft``, ``pt`` and ``rlhf`` as a user runs them, with an event at the end of every optimizer step."""

import os
import sys

from watch import COMPARED, begin, micro, quiet

quiet()
job, events = begin(torch=False)

import swift  # noqa: E402
from swift.core import startup  # noqa: E402

startup.calm()  # as the command line does
commands = sys.modules[swift.sft_main.__module__]
name, sign = COMPARED.get(job['stage'], ('loss', 1))
seen, make = {'step': 0}, commands._backend


def watched(*args):
    """The run's backend, which tells of each step: its tokens and loss, and when it ended."""
    backend = make(*args)
    forward_backward, optim_step = backend.forward_backward, backend.optim_step

    def counted(batches, objective):
        metrics = forward_backward(batches, objective)
        segments = [batch.segments for batch in batches]
        whole = [each.path(leaf) for each in segments for leaf in each.leaves]  # sequences, prompts included
        lengths = [each.lengths for each in segments for _ in each.leaves]
        tokens = sum(sum(of[i] for i in path) for of, path in zip(lengths, whole, strict=True))
        supervised = sum(int((batch.weight != 0).sum()) for batch in batches)
        total, divisor = metrics[name]
        loss = sign * float(total) / max(float(divisor), 1e-30)
        seen.update(tokens=tokens, cells=tokens, supervised=supervised, loss=loss, rows=job['rows_per_step'])
        return metrics

    def stepped(**kwargs):
        facts = optim_step(**kwargs)
        seen['step'] += 1
        events.step(**seen)
        return facts

    backend.forward_backward, backend.optim_step = counted, stepped
    return backend


commands._backend = watched
batch, accumulation = micro(job)
flags = {
    'model': job['model'], 'dataset': job['rows'], 'output_dir': job['scratch'], 'tuner_type': job['tuner'],
    'lora_rank': job['rank'], 'lora_alpha': job['alpha'], 'lora_dropout': 0, 'torch_dtype': 'bfloat16',
    'per_device_train_batch_size': batch, 'gradient_accumulation_steps': accumulation, 'max_steps': job['steps'],
    'max_length': job['longest'], 'learning_rate': job['learning_rate'], 'weight_decay': job['weight_decay'],
    'adam_beta2': job['adam_beta2'], 'seed': job['seed'], 'dataset_shuffle': False, 'train_dataloader_shuffle': False,
    'packing': job['packing'], 'save_strategy': 'no', 'report_to': 'none', 'logging_steps': 1, 'lint': 'warn',
    'use_cpu': job['device'] == 'cpu', 'store_dir': os.path.join(job['scratch'], 'tokens'),
}  # fmt: skip
if job['packing']:
    flags |= {'per_device_train_batch_size': 1, 'gradient_accumulation_steps': job['packs_per_step']}
if job['stage'] == 'dpo':
    flags |= {'rlhf_type': 'dpo', 'prefix_sharing': job['options'].get('share', True)}
argv = [word for name, value in flags.items() for word in (f'--{name}', str(value))]
{'sft': swift.sft_main, 'pt': swift.pt_main, 'dpo': swift.rlhf_main}[job['stage']](argv)
