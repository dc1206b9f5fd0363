"""Packages that get a Python of their own, built once in the cache: ``$SWIFT_CACHE/ROOM/NAME-KEY/env/bin/python``.

The key is made of what goes in, so a changed table builds a new one. Each step that is done is marked in the folder,
so that a build that was stopped goes on; a lock keeps two builds apart.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swift.core import cache, files
from swift.core.errors import SwiftError

DONE = 'ready'
CPU_INDEX = os.environ.get('TORCH_CPU_INDEX', 'https://download.pytorch.org/whl/cpu')  # as yichuidingyin.sh
STAND_IN = 'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: empty stand-in, put here by swift\n'


@dataclass(frozen=True, slots=True)
class Environment:
    """What an environment is made of.

    ``torch``: its version goes in first and stays; None leaves it to the requirements. ``cpu``: builds of torch
    for machines without a GPU, a tenth of the size. ``stand_ins``: packages that are asked for and never used, put
    there empty (``NAME-``: metadata only). ``proof``: a module that must import before the environment counts as ready.
    """

    room: str
    name: str
    requirements: tuple[str, ...]
    torch: str | None = None
    cpu: bool = False
    stand_ins: tuple[str, ...] = ()
    proof: str = ''

    @property
    def home(self) -> Path:
        """Its folder."""
        made_of = '\n'.join([sys.version, self.torch or '', *self.requirements, *self.stand_ins])
        return cache.folder(self.room) / f'{self.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}'

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / 'env' / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')

    @property
    def ready(self) -> bool:
        """Whether it is there, whole."""
        return (self.home / DONE).exists()


def build(environment: Environment, say: Callable[[str], None]) -> None:
    """Build an environment, or what is missing of it.

    Raises:
        SwiftError: a step failed; with the end of its log.
    """
    folder = environment.home
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        if environment.ready:
            return say(f'{environment.name}: ready in {folder}')
        steps = _steps(environment)
        for number, (title, step) in enumerate(steps, 1):
            mark = folder / f'step-{number}'
            if not mark.exists():
                say(f'{environment.name}: {number}/{len(steps)} {title}')
                step()
                mark.touch()
        (folder / DONE).touch()
    if environment.stand_ins:
        said = ', '.join(name.rstrip('-') for name in environment.stand_ins)
        say(f'{environment.name}: empty stand-ins for {said}')
    return say(f'{environment.name}: ready in {folder}')


def _steps(environment: Environment) -> list[tuple[str, Callable[[], None]]]:
    folder, torch = environment.home, environment.torch
    pip = [str(environment.python), '-m', 'pip', 'install', '--disable-pip-version-check']
    pip += _index() if environment.cpu else []
    steps: list[tuple[str, Callable[[], None]]] = [
        ('environment', lambda: call([sys.executable, '-m', 'venv', str(folder / 'env')], folder))
    ]
    held: list[str] = []
    if torch is not None:
        constraint = folder / 'constraints.txt'
        constraint.write_text(f'torch=={torch}\n', encoding='utf-8')
        held = ['-c', str(constraint)]
        steps.append((f'torch {torch}', lambda: call([*pip, f'torch=={torch}'], folder)))
        steps.append(('stand-ins', lambda: put_stand_ins(environment)))
    steps.append(('packages', lambda: call([*pip, *held, *environment.requirements], folder)))
    if environment.proof:
        steps.append(('proof', lambda: call([str(environment.python), '-c', f'import {environment.proof}'], folder)))
    return steps


def _index() -> list[str]:
    """Words that let pip see builds without a GPU, where their index can be reached."""
    try:
        with urllib.request.urlopen(f'{CPU_INDEX}/torch/', timeout=5):
            return ['--extra-index-url', CPU_INDEX]
    except OSError:
        return []


def put_stand_ins(environment: Environment) -> None:
    """Write the packages that are asked for and never used, as empty ones."""
    code = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    site = Path(subprocess.check_output([str(environment.python), '-c', code], text=True).strip())
    for marked in environment.stand_ins:
        name = marked.rstrip('-')
        facts = site / f'{name}-{environment.torch}.dist-info'
        facts.mkdir(exist_ok=True)
        files.write(facts / 'METADATA', STAND_IN.format(name=name, version=environment.torch))
        files.write(facts / 'RECORD', '')
        files.write(facts / 'INSTALLER', 'pip\n')
        if not marked.endswith('-'):
            (site / name).mkdir(exist_ok=True)
            files.write(site / name / '__init__.py', '"""Empty stand-in, put here by swift."""\n')


def call(command: Sequence[str], folder: Path) -> None:
    """Run a step, its output in the folder's log. Raises SwiftError with the end of it."""
    log = folder / 'log.txt'
    with log.open('ab') as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    if code:
        end = log.read_text(encoding='utf-8', errors='replace')[-1500:]
        raise SwiftError(f'{" ".join(command[:4])} … failed with exit code {code}; the end of {log}:\n{end}')
