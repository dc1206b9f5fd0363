"""Everything that the next step depends on, as data: safetensors and JSON, read back to the last bit.

    checkpoint-20/state/tensors.safetensors   weights in full precision, optimizer moments, random generators
    checkpoint-20/state/data.json             counters, loss scale, data position, progress, metrics

Nothing here is a pickle, and nothing has a default: a file or a key that is missing is an error.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from swift.core.errors import ConfigError, NumericalError
from swift.core.types import Source, TrainBackend
from swift.train.checkpoint import STATE

FORMAT = 1
TENSORS = 'tensors.safetensors'
DATA = 'data.json'


def save(folder: Path, backend: TrainBackend, source: Source, progress: dict[str, Any]) -> None:
    """Write ``folder/state``.

    Raises:
        NumericalError: a weight or a moment is not finite; such a state is never saved.
    """
    tensors, data = backend.state()
    refuse_nonfinite(tensors.items())
    rng_tensors, rng_data = random_state()
    parts = {'backend': data, 'source': source.state_dict(), 'progress': progress, 'random': rng_data}
    write(folder / STATE, _prefixed('backend', tensors) | _prefixed('random', rng_tensors), parts)


def load(folder: Path, backend: TrainBackend, source: Source) -> dict[str, Any]:
    """Put ``folder/state`` into ``backend``, ``source`` and the random generators; returns the saved progress.

    Raises:
        ConfigError: the state belongs to another model or tuner, or to another version of this program.
    """
    tensors, data = read(folder / STATE)
    try:
        backend.load_state(_of('backend', tensors), data['backend'])
        source.load_state_dict(data['source'])
        set_random_state(_of('random', tensors), data['random'])
        return data['progress']
    except (KeyError, ValueError) as error:
        raise ConfigError(f'{folder / STATE} does not fit this run: {error}') from error


# ---------------------------------------------------------------------------------------------------------- files
def write(folder: Path, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Write named tensors and JSON values into a new folder."""
    folder.mkdir()
    save_file(_unshared(tensors), folder / TENSORS)
    text = json.dumps({'format': FORMAT, **data}, ensure_ascii=False, allow_nan=False, indent=1)
    (folder / DATA).write_text(text, encoding='utf-8')


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of ``write``; the tensors are copies on the CPU that no file stands behind."""
    data = json.loads((folder / DATA).read_text(encoding='utf-8'))
    if data.pop('format', None) != FORMAT:
        raise ConfigError(f'{folder} was written by another version of this program; go on with that version')
    return {name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()}, data


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two in the same memory (8-bit optimizers share their code books)."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if address in memory else tensor
        memory.add(address)
    return found


def refuse_nonfinite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises NumericalError naming the first tensors that hold a NaN or an infinity."""
    bad = [name for name, tensor in tensors if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise NumericalError(
            f'{len(bad)} tensors are not finite, so no checkpoint is written: {", ".join(bad[:5])}. Those before it '
            'are sound: go on from the last with a lower --learning_rate or --max_grad_norm and --resume_changed allow'
        )


# --------------------------------------------------------------------------------------------- random generators
def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of every random generator a step may draw from: Python, NumPy, torch, and its devices."""
    tensors = {'torch': torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f'cuda:{i}': state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        tensors['mps'] = torch.mps.get_rng_state()
    name, keys, *rest = np.random.get_state()
    tensors['numpy'] = torch.from_numpy(keys.astype(np.int64))
    return tensors, {'python': random.getstate(), 'numpy': [name, *rest]}


def set_random_state(tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
    """Inverse of ``random_state``. Raises KeyError when a device of this machine has no saved state."""
    version, keys, gauss = data['python']
    random.setstate((version, tuple(keys), gauss))
    name, *rest = data['numpy']
    np.random.set_state((name, tensors['numpy'].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(tensors['torch'])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([tensors[f'cuda:{i}'] for i in range(torch.cuda.device_count())])
    if torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors['mps'])


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f'{prefix}/{name}': tensor for name, tensor in tensors.items()}


def _of(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = len(prefix) + 1
    return {name[start:]: tensor for name, tensor in tensors.items() if name.startswith(f'{prefix}/')}
