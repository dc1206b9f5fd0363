"""The weight files of a model folder, judged by their headers: nothing but names and sizes is read.

A file that was cut off, a shard that is missing, a tensor that the index promises and no file has: each is found
before a byte of weights is loaded.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from swift.core.errors import ModelError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
PICKLED = 'pytorch_model*.bin'
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def check(folder: Path) -> int | None:
    """Check the weight files and count their numbers; None for PyTorch's pickled files, which have no header.

    Raises:
        ModelError: naming each file that is missing, cut off or lacks a tensor.
    """
    if (folder / INDEX).is_file():
        shards = _read_index(folder)
    elif (folder / SINGLE).is_file():
        shards = {SINGLE: set()}
    elif list(folder.glob(PICKLED)):
        return None
    else:
        raise ModelError(
            f'{folder}: no weights: expected {SINGLE}, {INDEX} or {PICKLED}; has {_names(folder)}. '
            'Was the download complete?'
        )
    problems, total = [], 0
    for name, promised in sorted(shards.items()):
        try:
            tensors = _header(folder / name)
        except ModelError as error:
            problems.append(str(error))
            continue
        total += sum(math.prod(each['shape']) for each in tensors.values())
        if lacking := sorted(promised - tensors.keys()):
            problems.append(f'{name} lacks {len(lacking)} tensors of the index, {lacking[0]} among them')
    if problems:
        raise ModelError(f'{folder}: the weights are damaged: {"; ".join(problems)}. Copy or download them again')
    return total


def _read_index(folder: Path) -> dict[str, set[str]]:
    """Shard name -> names of the tensors it must have."""
    try:
        places = json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map']
        shards: dict[str, set[str]] = {}
        for tensor, shard in places.items():
            shards.setdefault(shard, set()).add(tensor)
        return shards
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f'{folder / INDEX}: cannot be read ({type(error).__name__}: {error})') from error


def _header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensors of a safetensors file by name: eight bytes of length, JSON, and exactly the bytes the JSON speaks of."""
    try:
        with path.open('rb') as file:
            (length,) = struct.unpack('<Q', file.read(8))
            if length > LONGEST_HEADER:
                raise ModelError(f'{path.name} is no safetensors file')
            header = json.loads(file.read(length))
            header.pop('__metadata__', None)
            end = max((each['data_offsets'][1] for each in header.values()), default=0)
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise ModelError(f'{path.name} is missing') from None
    except (OSError, ValueError, KeyError, struct.error, AttributeError, TypeError, IndexError) as error:
        raise ModelError(f'{path.name} is no whole safetensors file') from error
    if size != 8 + length + end:
        raise ModelError(f'{path.name} has {size:,} bytes, not {8 + length + end:,}')
    return header


def _names(folder: Path) -> str:
    return ', '.join(sorted(path.name for path in folder.iterdir())[:12]) or 'nothing'
