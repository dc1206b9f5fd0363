"""Memory that ran out, explained: who owned it, and the three cheapest things to change. Exit code 77."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from swift.core.errors import OutOfMemory

SIGNS = ('out of memory', "can't allocate memory", 'not enough memory', 'cannot allocate memory')
Flags = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fix:
    """One change: ``applies`` looks at the flags of the run, ``text`` says what to add and what it costs."""

    applies: Callable[[Flags], bool]
    text: str


RECOMPUTES = ('selective_recompute', 'gradient_checkpointing')
FIXES = (  # the cheapest first
    Fix(lambda f: f.get('optim', '').startswith('adamw_torch') and f.get('tuner_type') == 'full',
        '--optim adamw_8bit: a quarter of the optimizer memory, nearly the same training'),
    Fix(lambda f: not f.get('max_tokens_per_batch') and (f.get('per_device_train_batch_size') or 1) > 1,
        '--per_device_train_batch_size 1 with --gradient_accumulation_steps times as high: the same training, slower'),
    Fix(lambda f: not any(f.get(n) for n in RECOMPUTES),
        '--selective_recompute true: a third less activations, the same training, 3 % slower'),
    Fix(lambda f: not f.get('gradient_checkpointing'),
        '--gradient_checkpointing true: the same training, about a third slower'),
    Fix(lambda f: (f.get('lora_rank') or 0) > 64,
        '--lora_rank 8: smaller adapters, which learn nearly as much'),
    Fix(lambda f: f.get('torch_dtype') == 'float32',
        '--torch_dtype bfloat16: half the weights and activations'),
    Fix(lambda f: bool(f.get('packing')),
        '--packing_length half as long: half the activations'),
    Fix(lambda f: f.get('tuner_type') == 'full',
        '--tuner_type lora: no gradients and no optimizer state for the model itself'),
    Fix(lambda f: f.get('tuner_type') != 'full' and not f.get('quant_bits'),
        '--quant_method bnb --quant_bits 4: a quarter of the weights (QLoRA)'),
    Fix(lambda f: True,
        '--max_length half as long: half the activations; longer rows are dropped or cut'),
    Fix(lambda f: True,
        'a smaller model of the same family'),
)  # fmt: skip


@contextlib.contextmanager
def explained(owners: Callable[[], Mapping[str, int]], flags: Flags) -> Iterator[None]:
    """Turn every way of running out of memory inside the block into OutOfMemory.

    Args:
        owners: bytes by owner (weights, gradients, ...); asked only when memory has run out.
        flags: the settings of the run, by flag name.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_message(error, owners(), flags)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on the CPU, or a device ran out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def of_model(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes of weights, their gradients and the optimizer's tensors."""
    weights = {id(p): p for p in model.parameters()}
    groups = optimizer.param_groups if optimizer else []
    masters = {id(p): p for group in groups for p in group['params'] if id(p) not in weights}
    state = [value for each in (optimizer.state.values() if optimizer else ()) for value in each.values()]
    return {
        'weights': sum(p.nbytes for p in weights.values()),
        'full-precision copies of trained weights': sum(p.nbytes for p in masters.values()),
        'gradients': sum(p.grad.nbytes for p in (weights | masters).values() if p.grad is not None),
        'optimizer': sum(value.nbytes for value in state if isinstance(value, torch.Tensor)),
    }


def _message(error: BaseException, owners: Mapping[str, int], flags: Flags) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else 'MemoryError'
    held = [f'  {size / 2**30:8.2f} GiB  {name}' for name, size in owners.items() if size]
    fixes = [fix.text for fix in FIXES if fix.applies(flags)][:3]
    lines = [f'memory ran out: {reason}']
    if held:
        lines += ['What was held:', *held, '  the rest: activations of the step, and what else runs on this machine']
    else:
        lines += ['It ran out while the model was loaded.']
    lines += ['Cheapest changes:', *(f'  {number}. {text}' for number, text in enumerate(fixes, 1))]
    lines += [
        'Every checkpoint is sound. After a change that leaves the training the same, go on from it with '
        '--resume_from_checkpoint last --resume_changed allow'
    ]
    return '\n'.join(lines)
