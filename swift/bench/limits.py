"""The physical limit of a training step: what its arithmetic needs at the speed measured in the same run.

FLOPs a token (P: parameters of body and head, s: share of supervised tokens, p: adapter's parameters, L layers of
attention width w, n: mean length that a token sees):
    LoRA: 4 (P_body + s P_head) + 3 a + 6 p        full: 6 (P_body + P_head) + 3 a        a = 2 L w n
The rate is that of the model's own matrix products, each at its best of several tries; full training also moves its
optimizer's numbers once a step (weight, gradient and two moments of 16 bits read, three of them written).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = 14  # bytes per trained parameter and step


def tokens_per_second(probe: Mapping[str, Any], tuner: str, *, supervised: float, reach: float, step: float) -> float:
    """Tokens a second that no implementation can beat.

    Args:
        probe: result of ``drivers/probe.py``.
        supervised: share of tokens with a loss.
        reach: mean length that a token sees.
        step: tokens of an optimizer step.
    """
    body, head = probe['body'], probe['head']
    attention = 3 * 2 * probe['attention'] * reach
    if tuner == 'lora':
        work = (4 * body['parameters'] + attention + 6 * probe['adapter']) / body['lora']
        return 1 / (work + 4 * supervised * head['parameters'] / head['lora'])
    work = (6 * body['parameters'] + attention) / body['full'] + 6 * head['parameters'] / head['full']
    return 1 / (work + MOVED * probe['parameters'] / probe['bandwidth'] / step)
