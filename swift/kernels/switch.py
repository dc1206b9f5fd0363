"""What was put into a model to make it fast, and how to take it out again for a comparison or by ``--kernels``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from swift.core.errors import ConfigError, did_you_mean

KERNELS = {
    'attention': 'packed attention: many sequences in one row, without a mask',
    'head': 'log-probabilities from hidden states, without keeping logits',
    'lora': 'adapters of layers that share an input in one go',
    'norm': 'RMSNorm in one pass',
    'residual': 'a residual sum and the norm of it in one pass',
    'gated': 'SwiGLU and GeGLU in one pass',
    'rotary': 'rotary positions in one pass',
    'adamw': 'AdamW with clipping and rounding in one pass',
}
NAMED = frozenset({'residual'})
"""Kernels that ``auto`` leaves out: no whole step has shown their gain yet."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One kernel in one model. ``on`` and ``off`` may be called at any time, in any order."""

    name: str
    on: Callable[[], None]
    off: Callable[[], None]
    count: int = 1  # modules that use it


def attach(model: nn.Module, switch: Switch) -> None:
    """Turn it on, and remember it with the model."""
    switch.on()
    model.__dict__.setdefault('swift_switches', []).append(switch)


def attached(model: nn.Module) -> list[Switch]:
    """Everything that was attached to the model or to a module inside it."""
    return [switch for module in model.modules() for switch in module.__dict__.get('swift_switches', ())]


def detach(model: nn.Module) -> None:
    """Turn off and forget everything that was attached: the model computes as its author wrote it."""
    for switch in reversed(attached(model)):
        switch.off()
    for module in model.modules():
        module.__dict__.pop('swift_switches', None)


@contextmanager
def plain(switches: Iterable[Switch]) -> Iterator[None]:
    """Within, the model computes with torch's and its own operations."""
    switches = list(switches)
    for switch in reversed(switches):
        switch.off()
    try:
        yield
    finally:
        for switch in switches:
            switch.on()


def wanted(words: Collection[str]) -> frozenset[str]:
    """Names of kernels from ``--kernels auto|off|NAME ...``; names beside auto are added. Raises ConfigError."""
    if 'off' in words:
        if len(words) > 1:
            raise ConfigError(f'--kernels {" ".join(words)}: off stands alone')
        return frozenset()
    for word in words:
        if word not in ('auto', *KERNELS):
            raise ConfigError(
                f'--kernels {word}: no such kernel{did_you_mean(word, KERNELS)} Known: auto, off, {", ".join(KERNELS)}'
            )
    named = frozenset(words) - {'auto'}
    return named if named and 'auto' not in words else named | (KERNELS.keys() - NAMED)
