"""`swift doctor`: what is wrong with this machine and this installation, each finding with the line that mends it.

Looks at Python, packages and their supported windows, processor, memory, disk, threads, GPU, cache folders and what
is said about the network. It touches no network and changes nothing. Exit code 1 if something will not work.

``--install vllm`` changes something: it builds an environment for vLLM, whose packages would not go with ours.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swift.core import cache
from swift.core.log import say
from swift.core.table import table
from swift.plan.hardware import GB, Machine, look

if TYPE_CHECKING:
    from swift.commands.configs import DoctorConfig

OLDEST, TOO_NEW = (3, 11), (3, 15)
MARKS = {'ok': '✓', 'note': '·', 'warn': '!', 'bad': '✗'}
# Free bytes below which the main job of the one-hammer script is in danger.
MEMORY, DISK = 3 * GB, 5 * GB


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``bad`` will not work, ``warn`` may hurt, ``note`` is only said."""

    name: str
    status: Literal['ok', 'note', 'warn', 'bad']
    found: str
    fix: str = ''


def examine(machine: Machine, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every finding, in the order of the report."""
    yield _python()
    yield from _packages()
    yield _torch(machine)
    yield from _room(machine)
    yield _processor(machine)
    yield _threads(machine, environ)
    yield from _folders(environ)
    yield _network(environ)


def main(config: DoctorConfig) -> int:
    """Print the report, or install. Returns 1 if a finding is bad, else 0."""
    if config.doctor.install:
        return install(config.doctor.install, look())
    findings = list(examine(look(), os.environ))
    bad = [finding for finding in findings if finding.status == 'bad']
    if config.doctor.json:
        print(json.dumps({'ok': not bad, 'findings': [asdict(finding) for finding in findings]}, indent=1))
    else:
        print('\n'.join(report(findings)))
    return 1 if bad else 0


def install(name: str, machine: Machine) -> int:
    """Build the environment of a library that answers in a process of its own. Returns 0.

    Raises:
        ConfigError: it does not run on a machine like this one.
        SwiftError: a step failed.
    """
    from swift.core import environments
    from swift.core.errors import ConfigError
    from swift.engines import LIBRARIES

    package, kind = LIBRARIES[name].package, 'cuda' if any(gpu.kind == 'cuda' for gpu in machine.gpus) else 'cpu'
    if kind not in package.requirements:
        raise ConfigError(f'--install {name}: {package.name} needs an NVIDIA GPU, and there is none here')
    environment = package.environment(kind)
    environments.build(environment, say)
    say(f'swift infer --infer_backend {name} finds it; elsewhere: --backend_python {environment.python}')
    return 0


def report(findings: list[Finding]) -> Iterator[str]:
    """The table for people, and a last line that counts."""
    rows = []
    for finding in findings:
        rows.append((MARKS[finding.status], finding.name, finding.found))
        if finding.fix:
            rows.append(('', '', f'fix: {finding.fix}'))
    yield from table(rows)
    count = {status: sum(finding.status == status for finding in findings) for status in MARKS}
    yield f'{count["ok"] + count["note"]} fine, {count["warn"]} to watch, {count["bad"]} wrong'


def _python() -> Finding:
    here = sys.version_info[:2]
    found = f'{sys.version.split()[0]} in {sys.prefix}'
    if OLDEST <= here < TOO_NEW:
        return Finding('Python', 'ok', found)
    wanted = '.'.join(map(str, OLDEST))
    return Finding('Python', 'bad', found, f'use Python {wanted} or newer: python3.12 -m venv .venv')


# ----------------------------------------------------------------------------------------------------- packages
def _packages() -> Iterator[Finding]:
    """What the installation asks for, against what is there. Optional packages that are absent are one note."""
    absent = []
    for name, window, extra in _requirements():
        version = _version(name)
        if version is None and not extra:
            yield Finding(name, 'bad', f'not installed; wanted {window}', f"pip install '{name}{window}'")
        elif version is None:
            absent.append(name)
        elif not inside(version, window):
            yield Finding(name, 'bad', f'{version}, outside {window}', f"pip install '{name}{window}'")
        else:
            yield Finding(name, 'ok', f'{version}, supported {window}' if window else version)
    if absent:
        yield Finding('optional', 'note', f'not installed: {", ".join(sorted(set(absent)))}')


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(package, window, extra) of every requirement of this distribution; the tests' own packages are left out."""
    for line in importlib.metadata.requires('swift') or ():
        found = re.match(r'([\w.-]+)\s*(?:\[[^]]*])?\s*([^;]*)(?:;.*extra == ["\'](\w+)["\'])?', line)
        name, window, extra = found.groups() if found else (line, '', None)
        if name != 'swift' and extra != 'test':
            yield name, window.strip(), extra or ''


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def inside(version: str, window: str) -> bool:
    """Whether a version satisfies a window such as ``>=2.10,<2.14``; only numbers count, so 2.13.0+cpu is 2.13.0."""

    def numbers(text: str) -> list[int]:
        parts = [int(part) for part in re.findall(r'\d+', re.match(r'[\d.]*', text)[0])]
        return parts + [0] * (4 - len(parts))

    for operator, bound in re.findall(r'(>=|<=|==|!=|<|>)\s*([\w.+]+)', window):
        a, b = numbers(version), numbers(bound)
        verdict = {'>=': a >= b, '<=': a <= b, '==': a == b, '!=': a != b, '<': a < b, '>': a > b}
        if not verdict[operator]:
            return False
    return True


def _torch(machine: Machine) -> Finding:
    """Does torch load, and does its build suit the machine?"""
    try:
        torch = importlib.import_module('torch')
    except (ImportError, OSError) as error:
        return Finding('torch build', 'bad', f'cannot be imported: {error}', 'pip install --force-reinstall torch')
    build = f'CUDA {torch.version.cuda}' if torch.version.cuda else f'CPU ({torch.backends.cpu.get_cpu_capability()})'
    card = next((gpu for gpu in machine.gpus if gpu.kind == 'cuda'), None)
    if card is None or torch.cuda.is_available():
        return Finding('torch build', 'ok', build if card is None else f'{build}, {card.name}')
    fix = 'pip install --force-reinstall torch  (the default build), or mend the driver: nvidia-smi'
    return Finding('torch build', 'warn', f'{build}, which does not see {card.name}', fix)


# ------------------------------------------------------------------------------------------------------ machine
def _room(machine: Machine) -> Iterator[Finding]:
    memory = f'{machine.memory_free / GB:.1f} GB free of {machine.memory / GB:.1f} GB'
    if machine.memory_free < MEMORY:
        yield Finding('memory', 'warn', memory, 'close other programs, or choose a smaller model or pack')
    else:
        yield Finding('memory', 'ok', memory)
    disk = f'{machine.disk_free / GB:.1f} GB free in {Path.cwd()}'
    if machine.disk_free < DISK:
        yield Finding('disk', 'warn', disk, 'free some, or give --output_dir on another disk')
    else:
        yield Finding('disk', 'ok', disk)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 1024:
        yield Finding('open files', 'warn', f'at most {files}', 'ulimit -n 4096')


def _processor(machine: Machine) -> Finding:
    found = f'{machine.cpu}, {machine.cores} cores, {" ".join(machine.features) or "no known features"}'
    if machine.fast_bf16 or machine.gpus:
        return Finding('CPU', 'ok', found)
    return Finding('CPU', 'note', f'{found}: bfloat16 is slow here', '--torch_dtype float32')


def _threads(machine: Machine, environ: Mapping[str, str]) -> Finding:
    given = environ.get('OMP_NUM_THREADS')
    if given is None:
        return Finding('threads', 'ok', f'OMP_NUM_THREADS is not set: {machine.cores} will be used')
    if not given.isdigit() or not 1 <= int(given) <= machine.cores:
        found = f'OMP_NUM_THREADS={given} on {machine.cores} cores: threads would wait for each other'
        return Finding('threads', 'warn', found, f'export OMP_NUM_THREADS={machine.cores}')
    return Finding('threads', 'ok', f'OMP_NUM_THREADS={given} on {machine.cores} cores')


def _folders(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Cache folders: of swift itself and of the two hubs."""
    home = Path.home()
    folders = {
        'swift cache': cache.folder(''),
        'Hugging Face cache': Path(environ.get('HF_HOME') or home / '.cache/huggingface'),
        'ModelScope cache': Path(environ.get('MODELSCOPE_CACHE') or home / '.cache/modelscope'),
    }
    variables = ('SWIFT_CACHE', 'HF_HOME', 'MODELSCOPE_CACHE')
    for (name, folder), variable in zip(folders.items(), variables, strict=True):
        nearest = next(parent for parent in [folder, *folder.parents] if parent.exists())
        if os.access(nearest, os.W_OK):
            yield Finding(name, 'ok', str(folder) if folder.exists() else f'{folder} (will be made)')
        else:
            yield Finding(name, 'bad', f'{folder} cannot be written', f'export {variable}=/a/folder/of/yours')


def _network(environ: Mapping[str, str]) -> Finding:
    offline = [name for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE') if environ.get(name) in ('1', 'true', 'ON')]
    if offline:
        return Finding(
            'network', 'note', f'downloads are forbidden by {" and ".join(offline)}: local models and data only'
        )
    return Finding('network', 'note', 'not tried; nothing is downloaded while every input is local')
