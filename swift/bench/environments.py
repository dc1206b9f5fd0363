"""An environment for every peer, built once in the cache: ``$SWIFT_CACHE/bench/NAME-KEY/bin/python``.

The key is made of what goes in, so a changed table builds a new one. Each step that is done is marked in the folder,
so that a build that was stopped goes on; a lock keeps two builds apart.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from swift.bench.peers import PEERS, Peer
from swift.core import cache, files
from swift.core.errors import ConfigError, SwiftError, did_you_mean

TORCH = '2.13.0'  # of the processor alone where there is no GPU, as the registry gives it
DONE = 'ready'
STAND_IN = 'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: empty stand-in, put here by swift bench\n'


def pythons(wanted: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Peer -> its Python: those given as NAME=PATH, and those that were prepared.

    Raises:
        ConfigError: a name is unknown, a path is no file, or a peer that was asked for is not there.
    """
    found = {name: str(python(peer)) for name, peer in PEERS.items() if (home(peer) / DONE).exists()}
    for pair in given:
        name, _, path = pair.partition('=')
        _known(name, '--peer_python')
        if not Path(path).is_file():
            raise ConfigError(f'--peer_python {pair}: there is no file {path}')
        found[name] = os.path.abspath(path)
    if 'trl' in found:
        found.setdefault('plain', found['trl'])  # the same packages and one more
    for name in wanted:
        _known(name, '--peers')
        if name not in found:
            raise ConfigError(f'--peers {name}: not prepared; run swift bench prepare {name}, or give --peer_python')
    return {name: path for name, path in found.items() if not wanted or name in wanted}


def prepare(names: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Build the environments of these peers, or of all. Returns the names of those that failed."""
    failed = []
    for name in names or PEERS:
        _known(name, 'swift bench prepare')
        try:
            build(PEERS[name], say)
        except SwiftError as error:
            say(f'{name}: {error}')
            failed.append(name)
    return failed


def home(peer: Peer) -> Path:
    """The folder of a peer's environment."""
    made_of = '\n'.join([sys.version, TORCH, *peer.requirements, *peer.stand_ins])
    return cache.folder('bench') / f'{peer.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}'


def python(peer: Peer) -> Path:
    """The Python of a peer."""
    windows = sys.platform == 'win32'
    return home(peer) / 'env' / ('Scripts/python.exe' if windows else 'bin/python')


def build(peer: Peer, say: Callable[[str], None]) -> None:
    """Build the environment of a peer, or what is missing of it.

    Raises:
        SwiftError: a step failed; with the end of its log.
    """
    folder = home(peer)
    folder.mkdir(parents=True, exist_ok=True)
    with files.lock(folder):
        if (folder / DONE).exists():
            return say(f'{peer.name}: ready in {folder}')
        constraint = folder / 'constraints.txt'
        constraint.write_text(f'torch=={TORCH}\n', encoding='utf-8')
        pip = [str(python(peer)), '-m', 'pip', 'install', '--disable-pip-version-check']
        steps: list[tuple[str, Callable[[], None]]] = [
            ('environment', lambda: _call([sys.executable, '-m', 'venv', str(folder / 'env')], folder)),
            (f'torch {TORCH}', lambda: _call([*pip, f'torch=={TORCH}'], folder)),
            ('stand-ins', lambda: put_stand_ins(peer)),
            ('packages', lambda: _call([*pip, '-c', str(constraint), *peer.requirements], folder)),
        ]
        for number, (title, step) in enumerate(steps, 1):
            mark = folder / f'step-{number}'
            if not mark.exists():
                say(f'{peer.name}: {number}/{len(steps)} {title}')
                step()
                mark.touch()
        (folder / DONE).touch()
    if peer.stand_ins:
        say(f'{peer.name}: empty stand-ins for {", ".join(name.rstrip("-") for name in peer.stand_ins)}')
    return say(f'{peer.name}: ready in {folder}')


def put_stand_ins(peer: Peer) -> None:
    """Write the packages that a peer asks for and this work never uses, as empty ones."""
    code = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    site = Path(subprocess.check_output([str(python(peer)), '-c', code], text=True).strip())
    for marked in peer.stand_ins:
        name = marked.rstrip('-')
        facts = site / f'{name}-{TORCH}.dist-info'
        facts.mkdir(exist_ok=True)
        files.write(facts / 'METADATA', STAND_IN.format(name=name, version=TORCH))
        files.write(facts / 'RECORD', '')
        files.write(facts / 'INSTALLER', 'pip\n')
        if not marked.endswith('-'):
            (site / name).mkdir(exist_ok=True)
            files.write(site / name / '__init__.py', '"""Empty stand-in, put here by swift bench."""\n')


def _call(command: Sequence[str], folder: Path) -> None:
    log = folder / 'log.txt'
    with log.open('ab') as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL).returncode
    if code:
        end = log.read_text(encoding='utf-8', errors='replace')[-1500:]
        raise SwiftError(f'{" ".join(command[:4])} … failed with exit code {code}; the end of {log}:\n{end}')


def _known(name: str, where: str) -> None:
    if name not in PEERS:
        raise ConfigError(f'{where} {name}: no such peer{did_you_mean(name, PEERS)}. Known: {", ".join(PEERS)}')
