"""The C++ kernels: compiled once by the machine's own compiler into the cache, loaded with ctypes.

Every ``cpp/*.cpp`` becomes part of one library of plain C functions that take pointers and numbers; no torch headers
are needed, so it is built in seconds. Where there is no compiler torch's own operations go on: ``missing()`` says why,
once, in the first lines of a run.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from swift.core import cache as caches

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / 'cpp'
FLAGS = (
    '-O3', '-march=native', '-std=c++17', '-fopenmp', '-shared', '-fPIC', '-ffp-contract=fast', '-fno-math-errno',
    '-fno-trapping-math', '-fno-signed-zeros', '-fassociative-math', '-freciprocal-math', '-Wall',
)  # fmt: skip
"""Sums may be reordered into vectors; infinities and NaN keep their meaning."""
KIND = {'p': ctypes.c_void_p, 'i': ctypes.c_int64, 'f': ctypes.c_float, 'd': ctypes.c_double}
PATIENCE = 600.0  # seconds a compiler may take


class CannotCompile(Exception):
    """Why there are no C++ kernels here; one line."""


def missing() -> str | None:
    """None where C++ kernels run, else why they do not."""
    try:
        _library()
    except CannotCompile as error:
        return str(error)
    return None


def identity() -> str:
    """Names the build that computes here; another build may round another way."""
    try:
        return Path(_library()._name).stem
    except CannotCompile:
        return 'none'


@cache
def function(name: str, kinds: str) -> Callable[..., int]:
    """A C function of the library: tensors are passed by address, numbers by value.

    Args:
        name: as declared ``extern "C"``.
        kinds: one letter for each argument: p a contiguous tensor or None, i int64, f float, d double.

    Raises:
        CannotCompile: there is no library.
    """
    found = getattr(_library(), name)
    found.argtypes, found.restype = [KIND[kind] for kind in kinds if kind != ' '], None
    return lambda *args: found(*(_address(a) if isinstance(a, Tensor) else a for a in args))


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous(), 'C++ kernels take contiguous tensors'
    return tensor.data_ptr()


@cache
def _library() -> ctypes.CDLL:
    return build(SOURCES, FLAGS, openmp=True)


def build(sources: Path, flags: Sequence[str], *, openmp: bool = False) -> ctypes.CDLL:
    """The library that the ``*.cpp`` of a folder make, compiled unless the cache has it.

    Args:
        openmp: link the OpenMP library that torch has loaded.

    Raises:
        CannotCompile: there is no compiler, or it refuses; or SWIFT_KERNELS is off.
    """
    if (wanted := os.environ.get('SWIFT_KERNELS')) == 'off':
        raise CannotCompile(f'SWIFT_KERNELS is {wanted}')
    compiler = shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++') or shutil.which('clang++')
    if compiler is None:
        raise CannotCompile('no C++ compiler is installed (apt install g++)')
    linked = _openmp() if openmp else None
    command = [compiler, *flags]
    path = caches.folder('kernels') / f'swift-{_digest(command, sources, linked)}.so'
    try:
        with _alone(path):
            if not path.exists():
                _compile(command, sources, linked, path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotCompile(f'{type(error).__name__}: {error}') from error


def _digest(command: list[str], sources: Path, openmp: Path | None) -> str:
    """Names a build: sources, flags, compiler, processor, torch and its OpenMP."""
    state = hashlib.sha256()
    for source in sorted(sources.iterdir()):
        state.update(source.read_bytes())
    for each in (' '.join(command), _version(command[0]), _processor(), str(openmp), torch.__version__):
        state.update(each.encode())
    return state.hexdigest()[:16]


@cache
def _version(compiler: str) -> str:
    done = subprocess.run([compiler, '--version'], capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout


@cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        return platform.processor()
    return ' '.join(re.findall(r'^(?:model name|flags|Features|CPU part)\s*:.*$', text.partition('\n\n')[0], re.M))


def _openmp() -> Path | None:
    """The OpenMP library that torch has loaded: a second one would fight it for the cores."""
    try:
        maps = Path('/proc/self/maps').read_text(encoding='utf-8')
    except OSError:
        return None
    found = re.search(r'(/\S*/lib[gi]omp\S*\.so\S*)', maps)
    return Path(found[1]) if found else None


def _compile(command: list[str], folder: Path, openmp: Path | None, path: Path) -> None:
    sources = [str(each) for each in sorted(folder.glob('*.cpp'))]
    linked = [str(openmp), f'-Wl,-rpath,{openmp.parent}', '-Wl,--as-needed'] if openmp else []
    made = path.with_suffix(f'.{os.getpid()}')
    logger.info('compiling %s once, into %s', folder.name, path.parent)
    try:
        done = subprocess.run(
            [command[0], *sources, *command[1:], *linked, '-o', str(made)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if 'error' in line), done.stderr[:200])
            raise CannotCompile(f'{Path(command[0]).name} failed: {first}')
        os.replace(made, path)
    except subprocess.TimeoutExpired:
        raise CannotCompile(f'{command[0]} was not done in {PATIENCE:.0f} s') from None
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process compiles; the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix('.lock'), 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def supported(*tensors: Tensor) -> bool:
    """Whether C++ kernels take these: on the CPU, of one dtype, bf16 or fp32."""
    dtype = tensors[0].dtype
    return dtype in (torch.bfloat16, torch.float32) and all(
        each.device.type == 'cpu' and each.dtype == dtype for each in tensors
    )
