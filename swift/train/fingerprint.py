"""What must be the same for a resumed run to take the very same steps.

A fingerprint is nested JSON: what the machine computes with (``machine``), and what the command adds of the model,
data, template, tuner, seed, batch and schedule. It lies in the manifest of every checkpoint; ``check`` compares.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift.core.errors import ConfigError

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024
SAMPLES = 16
NUMBERS = 256  # of each end of a weight in memory
WEIGHTS = ('.safetensors', '.bin', '.gguf', '.pt')


def machine(device: str) -> dict[str, Any]:
    """What the last bits of a sum depend on. A kernel table, where there is one, is added by its owner."""
    facts = {
        'torch': torch.__version__,
        'device': device,
        'cpu': torch.backends.cpu.get_cpu_capability(),
        'threads': torch.get_num_threads(),
    }
    if device.startswith('cuda'):
        facts['device'] = torch.cuda.get_device_name(device)
    return facts


def of_folder(folder: Path) -> str:
    """A digest of a model folder: its configuration, and samples spread over its weights.

    Two trainings of one model differ in nearly every byte, so samples tell them apart without reading gigabytes.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name == 'config.json':
            digest.update(path.read_bytes())
        elif path.suffix in WEIGHTS:
            digest.update(f'{path.name} {path.stat().st_size}'.encode())
            for chunk in _samples(path):
                digest.update(chunk)
    return digest.hexdigest()


def of_model(model: nn.Module) -> str:
    """The same of a model in memory: what its weights are called, and numbers from both ends of each."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        digest.update(f'{name} {tuple(weight.shape)} {weight.dtype}'.encode())
        for part in (flat[:NUMBERS], flat[-NUMBERS:]):
            digest.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def check(saved: dict[str, Any], now: dict[str, Any], *, allow: bool = False) -> bool:
    """Compare a checkpoint's fingerprint with this run's, and return whether they differ.

    Raises:
        ConfigError: listing every difference, unless ``allow``: then each is a warning.
    """
    found = differences(saved, now)
    if found and not allow:
        raise _refusal(found)
    for each in found:
        logger.warning('resumed with a difference: %s', each)
    return bool(found)


def _refusal(found: list[str]) -> ConfigError:
    return ConfigError(
        [
            'this run differs from the one that wrote the checkpoint, so it could not go on as if never stopped:',
            *(f'  {each}' for each in found),
            'Give the same settings again, or add --resume_changed allow to go on with the new ones',
        ]
    )


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each value that is not the same: ``train.seed: was 42, is 43``."""
    before, after = dict(_leaves(saved)), dict(_leaves(now))
    return [
        f'{name}: was {before.get(name, "not there")}, is {after.get(name, "not there")}'
        for name in sorted(before.keys() | after.keys())
        if name not in before or name not in after or before[name] != after[name]
    ]


def _leaves(tree: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', list(value) if isinstance(value, tuple) else value


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open('rb') as file:
        for i in range(SAMPLES):
            file.seek(max(0, size - CHUNK) * i // (SAMPLES - 1))
            yield file.read(CHUNK)
