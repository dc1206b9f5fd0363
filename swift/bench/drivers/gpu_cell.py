"""Training steps of a model with random weights: ours on packs, and transformers with peft on padded batches.

Needs no network, no tokenizer and no data: the model comes from its config, lengths and tokens from a seed. The same
cell runs on a processor with a tiny config, which is how it is tested.
"""

import contextlib
from functools import partial

from watch import begin, lengths_of, quiet

quiet()
job, events = begin()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

DEVICE, SUPERVISED = job['device'], 0.6
torch.manual_seed(job['seed'])


def build():
    """The model in bfloat16 on its device; its linear layers in 4 bits if the cell asks for it."""
    config = AutoConfig.for_model(**job['config'])
    if job['options'].get('liger'):
        from liger_kernel.transformers import _apply_liger_kernel

        _apply_liger_kernel(config.model_type)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if job['bits'] == 4:
        quantise(model)
    return model


def quantise(model):
    """Put 4-bit layers (NF4, double quantisation) in place of the linear ones, the head kept."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear) or child is head:
                continue
            layer = bnb.nn.Linear4bit(
                child.in_features, child.out_features, child.bias is not None, torch.bfloat16, quant_type='nf4'
            )
            layer.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type='nf4')
            setattr(module, name, layer.to(DEVICE))
    model.is_loaded_in_4bit = model.is_quantized = True


def steps():
    """Lengths of the rows of each step, each step the same number of tokens."""
    lengths = iter(lengths_of({**job, 'count': 10_000}) if job['natural'] else [job['max_length']] * 10_000)
    for _ in range(job['steps']):
        rows, room = [], job['tokens_per_step']
        while room > 1:
            rows.append(min(next(lengths), room))
            room -= rows[-1]
        yield rows


def adapter():
    """Flags of the adapter."""
    from swift.tuners.args import TunerArgs

    return TunerArgs(lora_rank=job['rank'], lora_alpha=job['alpha'], lora_dropout=0.0)


def ours():
    """A function that does a step on rows of these lengths, and says what it did."""
    from swift.core.types import Batch, Builder, ModelInfo, Segments
    from swift.objectives import OBJECTIVES
    from swift.parallel.one_device import TorchBackend
    from swift.parallel.settings import Settings
    from swift.tuners import fused, lora

    info = ModelInfo(None, '', '', '', 'bfloat16', job['max_length'])
    builder = Builder(info, None, build)
    if job['tuner'] == 'lora':
        builder = builder.then(partial(lora.attach, args=adapter())).then(fused.install)
    backend = TorchBackend(
        builder,
        Settings(device=DEVICE, max_length=job['max_length']),
        optimizer=lambda model, masters: torch.optim.AdamW(
            [{'params': list(masters.values()), 'peak': job['learning_rate']}], fused=True
        ),
        schedule=lambda step: 1.0,
        write_model=lambda model, folder: None,
    )
    objective = OBJECTIVES['sft']()

    def step(rows):
        total = sum(rows)
        ids = torch.randint(job['config']['vocab_size'], (total,))
        weight = (torch.rand(total) < SUPERVISED).float()
        segments = Segments(tuple(rows))
        weight[list(segments.starts[:-1])] = 0
        positions = torch.cat([torch.arange(length) for length in rows])
        metrics = backend.forward_backward([Batch(ids, positions, segments, weight)], objective)
        backend.optim_step()
        loss, count = metrics['loss']
        return {'tokens': total, 'cells': total, 'supervised': int((weight != 0).sum()), 'loss': float(loss / count)}

    return step


def plain():
    """The same work with transformers and peft, its rows padded to the longest."""
    model = build()
    if job['tuner'] == 'lora':
        from peft import LoraConfig, get_peft_model

        flags = adapter()
        model = get_peft_model(
            model, LoraConfig(r=flags.lora_rank, lora_alpha=int(flags.lora_alpha), target_modules='all-linear')
        )
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=job['learning_rate'])

    def step(rows):
        width, total = max(rows), sum(rows)
        ids = torch.randint(job['config']['vocab_size'], (len(rows), width), device=DEVICE)
        mask = torch.arange(width, device=DEVICE)[None] < torch.tensor(rows, device=DEVICE)[:, None]
        learnt = mask & (torch.rand(mask.shape, device=DEVICE) < SUPERVISED)
        labels = torch.where(learnt, ids, -100)
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=labels, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {'tokens': total, 'cells': mask.numel(), 'supervised': int(learnt.sum()), 'loss': float(loss)}

    return step


def main():
    """Do the steps; ``peak`` is the device's memory, where it counts it."""
    work = {'ours': ours, 'plain': plain}[job['options']['way']]()
    cuda = DEVICE.startswith('cuda')
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for number, rows in enumerate(steps(), 1):
        facts = work(rows)
        with contextlib.suppress(RuntimeError):
            torch.accelerator.synchronize()
        events.step(step=number, **facts)
    if cuda:
        events.write(peak=torch.cuda.max_memory_allocated())


main()
