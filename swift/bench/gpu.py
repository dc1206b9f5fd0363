"""``swift bench gpu``: one call that says how far a GPU is used. No network: random weights from the configs below.

Every cell also runs on a processor with ``--device cpu --tiny``, so that the code is tested where there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swift.bench import process
from swift.bench.compare import ALPHA, PACKAGE, RANK, order
from swift.bench.peers import DRIVERS, OURS, Side
from swift.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GpuCell:
    """A model and how it is trained. ``natural``: lengths spread as in chat data; else all ``max_length``."""

    name: str
    title: str
    model: str
    tuner: Literal['lora', 'full']
    max_length: int
    tokens_per_step: int
    natural: bool = False
    bits: int = 16
    steps: int = 12
    kind: str = 'train'


LLAMA = {'model_type': 'llama', 'rope_theta': 500000.0, 'rms_norm_eps': 1e-5}
QWEN = {'model_type': 'qwen3', 'rope_theta': 1000000.0, 'rms_norm_eps': 1e-6, 'head_dim': 128}


def _sizes(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int) -> dict[str, Any]:
    return {
        'hidden_size': hidden,
        'intermediate_size': inner,
        'num_hidden_layers': layers,
        'num_attention_heads': heads,
        'num_key_value_heads': groups,
        'vocab_size': vocabulary,
        'max_position_embeddings': 8192,
    }


MODELS: dict[str, dict[str, Any]] = {
    'qwen3-0.6b': {**QWEN, **_sizes(1024, 3072, 28, 16, 8, 151936), 'tie_word_embeddings': True},
    'llama-1b': {**LLAMA, **_sizes(2048, 8192, 16, 32, 8, 128256), 'tie_word_embeddings': True},
    'llama-8b': {**LLAMA, **_sizes(4096, 14336, 32, 32, 8, 128256)},
}
TINY = {**_sizes(64, 128, 2, 4, 2, 512), 'head_dim': 16}
CELLS = (
    GpuCell('lora-0.6b', '0.6B LoRA, natural lengths', 'qwen3-0.6b', 'lora', 4096, 32768, natural=True),
    GpuCell('lora-8b', '8B LoRA, 4096 tokens', 'llama-8b', 'lora', 4096, 8192),
    GpuCell('full-1b', '1B full, 4096 tokens', 'llama-1b', 'full', 4096, 16384),
    GpuCell('qlora-8b', '8B QLoRA, 2048 tokens: peak memory', 'llama-8b', 'lora', 2048, 2048, bits=4),
)
SIDES = (
    Side('ours', OURS, {'way': 'ours'}),
    Side('plain, padded', 'plain', {'way': 'plain'}),
    Side('plain, padded, liger', 'liger', {'way': 'plain', 'liger': True}),
)


def measure(
    folder: Path, device: str, names: Sequence[str], *, tiny: bool, repeats: int, timeout: float, seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Run the cells and return a report like that of ``compare``.

    Raises:
        ConfigError: there is no such device.
    """
    name = _device_name(device)
    started, load = time.time(), os.getloadavg()
    sides = [side for side in SIDES if side.peer != 'liger' or _importable('liger_kernel')]
    cells = {}
    for cell in CELLS:
        if not names or cell.name in names:
            cells[cell.name] = _cell(folder, cell, _job(cell, device, tiny, seed), sides, repeats, timeout, say)
    return {
        'started': started, 'seconds': time.time() - started, 'device': name, 'threads': os.cpu_count(),
        'load': [load, os.getloadavg()], 'probes': [], 'cells': cells,
    }  # fmt: skip


def _cell(
    folder: Path, cell: GpuCell, job: dict[str, Any], sides: Sequence[Side], repeats: int, timeout: float,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    def run(script: str, name: str, **more: Any) -> dict[str, Any]:
        say(f'{cell.title}: {name}')
        command = [sys.executable, str(DRIVERS / script)]
        where, threads = folder / 'work' / f'{cell.name}.{name.replace(", ", "-")}', len(os.sched_getaffinity(0))
        done = process.run(command, {**job, **more}, where, threads=threads, timeout=timeout, path=str(PACKAGE.parent))
        if not done['ok']:
            say(f'    {done["error"]}')
        return done

    probe = run('probe.py', 'probe', steps=0)['result']
    runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number, side in order(sides, repeats):
        runs[side.name].append(run('gpu_cell.py', f'{side.name}, run {number + 1}', options=dict(side.options)))
    done = [step for each in runs['ours'] for step in each['steps']]
    mean = sum(step['tokens'] for step in done) / max(len(done), 1)
    rows = {'count': len(done), 'mean': mean, 'dropped': 0, 'reach': 350 if cell.natural else job['max_length']}
    return {'cell': {**asdict(cell), 'packing': True}, 'rows': rows, 'sides': runs, 'probes': [probe]}


def _job(cell: GpuCell, device: str, tiny: bool, seed: int) -> dict[str, Any]:
    """What a driver is told."""
    config = {**MODELS[cell.model], **(TINY if tiny else {})}
    short = {'max_length': 64, 'tokens_per_step': 256, 'steps': 3} if tiny else {}
    learning = {'rank': RANK, 'alpha': ALPHA, 'learning_rate': 1e-4, 'seed': seed, 'options': {}}
    return {**asdict(cell), 'config': config, 'device': device, **learning, **short}


def _device_name(device: str) -> str:
    """What the device is called. Raises ConfigError if there is none, or torch cannot use it."""
    if device == 'cpu':
        return 'cpu'
    code = 'import torch, sys; print(torch.cuda.get_device_name(sys.argv[1]), torch.__version__, torch.version.cuda)'
    asked = subprocess.run([sys.executable, '-c', code, device], capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ['no reason given'])[-1]
        raise ConfigError(f'--device {device}: no such GPU here ({reason}); --device cpu --tiny only tries the code')
    return asked.stdout.strip()


def _importable(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None
