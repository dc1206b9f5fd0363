"""Where large tensors lie on the CPU: in one stretch of memory that nothing else has a part of.

In the heap of the C library, micro-batches of ever new shapes leave holes that do not fit, between small objects that
stay: a fifth of a run's memory, and another fifth in every run. Here everything is free in one piece when a micro-batch
is done, so that a run takes what its largest one needs, the same every time. ``cpp_torch/arena.cpp`` is torch's
allocator from ``install()`` on.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from swift.kernels.compiled import CannotCompile, build

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / 'cpp_torch'
LEAST = 1 << 16  # bytes of a tensor that lies there; it takes whole pages
ADDRESSES = 2  # times the machine's memory: addresses, of which pages are taken when they are written to


@dataclass(frozen=True, slots=True)
class Facts:
    """Bytes that tensors have, bytes up to the last that ever had a tensor, and how many holes lie between."""

    used: int
    top: int
    holes: int


def install() -> None:
    """Let tensors lie there from now on. Where that cannot be, they go on lying in the heap."""
    _library()


def trim() -> None:
    """Give pages without a tensor back to the system."""
    if library := _library.cache_info().currsize and _library():
        library.arena_trim()


def facts() -> Facts | None:
    """What lies there; None where nothing is installed."""
    if not (library := _library.cache_info().currsize and _library()):
        return None
    out = (ctypes.c_int64 * 3)()
    library.arena_facts(out)
    return Facts(*out)


@cache
def _library() -> ctypes.CDLL | None:
    home = Path(torch.__file__).parent
    flags = ['-O2', '-std=c++20', '-shared', '-fPIC', f'-I{home}/include']
    flags += [f'-L{home}/lib', '-lc10', f'-Wl,-rpath,{home}/lib']
    try:
        library = build(SOURCES, flags)
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        refused = library.arena_open(ctypes.c_int64(ADDRESSES * memory), ctypes.c_int64(LEAST))
    except (CannotCompile, AttributeError, OSError, ValueError) as error:
        logger.info('tensors lie in the heap of the C library: %s', error)
        return None
    return None if refused else library
