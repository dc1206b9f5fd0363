"""What machine is this? Answers from the operating system alone: no torch, no package, so it runs before installing.

``look()`` returns a Machine; ``python -m swift.plan.hardware`` prints it as a table.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.core.table import table

GB = 10**9
# Features that decide how fast matrix products are, best first, as /proc/cpuinfo names them on x86 and ARM.
FEATURES = ('amx_bf16', 'amx_int8', 'avx512_bf16', 'avx512f', 'avx2', 'sve', 'bf16', 'asimd')
FAST_BF16 = {'amx_bf16', 'avx512_bf16', 'bf16'}
LABELS = {
    'en': ('system', 'Python', 'CPU', 'memory', 'disk', 'GPU'),
    'zh': ('系统', 'Python', '处理器', '内存', '磁盘', '显卡'),
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. ``kind`` is torch's device type for it: cuda, mps, npu. ``memory`` in bytes, 0 if unknown."""

    kind: str
    name: str
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine. Sizes in bytes; ``cores`` are those this process may use, limits of containers included."""

    system: str
    python: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int
    memory_free: int
    disk_free: int
    gpus: tuple[Gpu, ...] = ()

    @property
    def fast_bf16(self) -> bool:
        """The CPU multiplies bfloat16 matrices in hardware."""
        return bool(FAST_BF16.intersection(self.features))


def look(folder: Path = Path()) -> Machine:
    """Look at this machine. ``folder`` says which disk counts."""
    memory, free = _memory()
    return Machine(
        system=_system(),
        python=platform.python_version(),
        cpu=_cpu(),
        cores=_cores(),
        features=_features(),
        memory=memory,
        memory_free=free,
        disk_free=shutil.disk_usage(folder).free,
        gpus=_gpus(),
    )


def busy() -> int:
    """Cores that other programs keep busy just now: the fewest running threads besides this one in a quarter second."""
    counts = []
    for _ in range(5):
        running = re.search(r'^procs_running (\d+)', _read('/proc/stat'), re.MULTILINE)
        counts.append(int(running[1]) - 1 if running else 0)
        time.sleep(0.05)
    return max(0, min(counts))


def describe(machine: Machine, language: str = 'en') -> list[tuple[str, str]]:
    """Rows of a table for people: a label and what was found."""
    zh = language == 'zh'
    cores = f'{machine.cores} 核' if zh else f'{machine.cores} {"core" if machine.cores == 1 else "cores"}'
    free = '可用' if zh else 'free'
    cpu = ', '.join([machine.cpu, cores, *machine.features[:3]])
    memory = f'{machine.memory / GB:.1f} GB, {free} {machine.memory_free / GB:.1f} GB'
    disk = f'{free} {machine.disk_free / GB:.0f} GB'
    gpus = ', '.join(f'{g.name} {g.memory / GB:.0f} GB' if g.memory else g.name for g in machine.gpus)
    values = (machine.system, machine.python, cpu, memory, disk, gpus or ('无' if zh else 'none'))
    return list(zip(LABELS[language], values, strict=True))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''


def _run(*command: str) -> str:
    """Output of a command that may be missing, fail or hang: then an empty string."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ''


def _system() -> str:
    release = _read('/etc/os-release')
    pretty = next(
        (line.partition('=')[2].strip('"') for line in release.splitlines() if line.startswith('PRETTY_NAME')), ''
    )
    return f'{pretty or platform.system()} {platform.machine()}'


def _cpuinfo(*keys: str) -> str:
    for line in _read('/proc/cpuinfo').splitlines():
        key, _, value = line.partition(':')
        if key.strip() in keys:
            return value.strip()
    return ''


def _cpu() -> str:
    name = _cpuinfo('model name', 'Hardware', 'Model') or _run('sysctl', '-n', 'machdep.cpu.brand_string')
    return name or platform.processor() or platform.machine()


def _features() -> tuple[str, ...]:
    flags = set(_cpuinfo('flags', 'Features').split())
    return tuple(name for name in FEATURES if name in flags)


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    quota, _, period = _read('/sys/fs/cgroup/cpu.max').strip().partition(' ')
    return min(cores, max(1, int(quota) // int(period))) if quota.isdigit() else cores


def _memory() -> tuple[int, int]:
    """Total and available bytes, a container's limit included."""
    lines = dict(line.split(':') for line in _read('/proc/meminfo').splitlines())
    if not lines:
        total = int(_run('sysctl', '-n', 'hw.memsize') or 0)
        return total, total
    total, free = (int(lines[key].split()[0]) * 1024 for key in ('MemTotal', 'MemAvailable'))
    limit, used = (_read(f'/sys/fs/cgroup/memory.{name}').strip() for name in ('max', 'current'))
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(used or 0))
    return total, free


def _gpus() -> tuple[Gpu, ...]:
    listed = _run('nvidia-smi', '--query-gpu=name,memory.total', '--format=csv,noheader,nounits')
    found = [line.rsplit(',', 1) for line in listed.splitlines() if ',' in line]
    gpus = [Gpu('cuda', name.strip(), int(mib) * 2**20) for name, mib in found if mib.strip().isdigit()]
    if platform.system() == 'Darwin' and platform.machine() == 'arm64':
        gpus.append(Gpu('mps', 'Apple GPU'))
    if Path('/dev/kfd').exists():
        gpus.append(Gpu('cuda', 'AMD GPU (ROCm, untested)'))
    if Path('/dev/davinci0').exists():
        gpus.append(Gpu('npu', 'Ascend NPU (untested)'))
    return tuple(gpus)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or with ``--torch`` which build of torch fits: cpu or default."""
    parser = argparse.ArgumentParser(description='What this machine is.')
    parser.add_argument('--language', choices=LABELS, default='en')
    parser.add_argument('--torch', action='store_true', help='print which build of torch fits: cpu or default')
    args = parser.parse_args(argv)
    machine = look()
    if args.torch:
        print('default' if machine.gpus else 'cpu')
    else:
        print('\n'.join(table(describe(machine, args.language))))


if __name__ == '__main__':
    main(sys.argv[1:])
