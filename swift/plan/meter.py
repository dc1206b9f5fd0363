"""Memory of this process, as the system counts it, and its peak over a stretch of code.

Linux counts pages; file-backed ones (libraries, weights that are mapped from disk) can be given back at any time and
are told apart. On a GPU the allocator of torch counts. Elsewhere the peak of the whole process must do.
"""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATUS, CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')
RESTART = '5'  # what CLEAR takes to mean: forget the peak (proc(5))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use now and at most; ``file`` is the part of ``now`` that stands in files."""

    now: int
    peak: int
    file: int = 0


def read(device: str = 'cpu') -> Memory:
    """Memory of this process, or of torch's allocator on ``cuda``."""
    if device.startswith('cuda'):
        import torch

        return Memory(torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved())
    if STATUS.exists():
        text = STATUS.read_text(encoding='utf-8')
        found = {name: int(kib) * 1024 for name, kib in re.findall(r'(\w+):\s+(\d+) kB', text)}
        return Memory(found['VmRSS'], found['VmHWM'], found.get('RssFile', 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return Memory(peak, peak)


def restart(device: str = 'cpu') -> None:
    """Let the peak begin anew, where the system can: elsewhere it only grows."""
    if device.startswith('cuda'):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        CLEAR.write_text(RESTART, encoding='ascii')


@contextmanager
def phase(name: str, peaks: dict[str, int], device: str = 'cpu') -> Iterator[None]:
    """Note the peak of the block in ``peaks``; a phase that comes again keeps its highest."""
    restart(device)
    yield
    peaks[name] = max(peaks.get(name, 0), read(device).peak)


def trim() -> None:
    """Give back what the C library and the arena of tensors hold of freed memory, where they can."""
    from swift.kernels import arena

    arena.trim()
    if STATUS.exists() and (give := getattr(ctypes.CDLL(None), 'malloc_trim', None)):
        give(0)
