"""What to change when a run does not fit, the cheapest first. No rung changes which rows a step is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from swift.plan.work import Shape, Work

LEAST = 256  # tokens below which a micro-batch is not halved any more: the processor would idle


@dataclass(frozen=True, slots=True)
class Rung:
    """A change: flags and their values; ``work`` says what becomes of the micro-batches."""

    title: str
    flags: dict[str, Any] = field(default_factory=dict)
    work: Callable[[Work], Work] = lambda work: work


def rungs(get: Callable[[str], Any]) -> Iterator[Rung]:
    """The rungs that would change something in a run whose flags ``get`` reads."""
    full, tokens = get('tuner_type') == 'full', get('max_tokens_per_batch') or 0
    for share in (2, 4):
        if tokens // share >= LEAST:
            yield Rung(
                f'--max_tokens_per_batch {tokens // share}',
                {'max_tokens_per_batch': tokens // share},
                partial(_smaller, most=tokens // share),
            )
    if not get('selective_recompute') and not get('gradient_checkpointing'):
        yield Rung('--selective_recompute true', {'selective_recompute': True})
    if not get('gradient_checkpointing'):
        yield Rung('--gradient_checkpointing true', {'gradient_checkpointing': True})
    if get('torch_dtype') == 'float32':
        yield Rung('--torch_dtype bfloat16', {'torch_dtype': 'bfloat16', 'bf16': True})
    if full and get('optim').startswith('adamw_torch'):
        yield Rung('--optim adamw_bf16', {'optim': 'adamw_bf16'})
    if full:
        yield Rung('--tuner_type lora', {'tuner_type': 'lora', 'learning_rate': 1e-4})
    if not get('quant_bits'):
        yield Rung('--quant_bits 4', {'quant_bits': 4, 'quant_method': 'bnb'})


def _smaller(work: Work, most: int) -> Work:
    stretches = (tuple(cut(shape, most) for shape in stretch) for stretch in work.stretches)
    return replace(work, stretches=tuple(dict.fromkeys(stretches)))


def cut(shape: Shape, most: int) -> Shape:
    """The largest micro-batch of at most ``most`` tokens that the sequences make; a longer one stands alone."""
    kept: list[int] = []
    for length in sorted(shape.lengths, reverse=True):
        if not kept or sum(kept) + length <= most:
            kept.append(length)
    return Shape(tuple(kept), max(1, round(shape.targets * sum(kept) / shape.tokens)))
