"""An environment for every peer, built once in the cache (``core.environments``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from swift.bench.peers import PEERS, Peer
from swift.core import environments
from swift.core.environments import Environment
from swift.core.errors import ConfigError, SwiftError, did_you_mean
from swift.engines import vllm

TORCH = '2.13.0'  # of the processor alone where there is no GPU, as the registry gives it


def pythons(wanted: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Peer -> its Python: those given as NAME=PATH, and those that were prepared.

    Raises:
        ConfigError: a name is unknown, a path is no file, or a peer that was asked for is not there.
    """
    built = {name: environment(peer) for name, peer in PEERS.items()}
    found = {name: str(each.python) for name, each in built.items() if each.ready}
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
            environments.build(environment(PEERS[name]), say)
        except SwiftError as error:
            say(f'{name}: {error}')
            failed.append(name)
    return failed


def environment(peer: Peer) -> Environment:
    """What the environment of a peer is made of; that of vLLM serves ``swift infer``, too."""
    if peer.name == 'vllm':
        return vllm.PACKAGE.environment('cpu')
    return Environment('bench', peer.name, peer.requirements, TORCH, stand_ins=peer.stand_ins)


def _known(name: str, where: str) -> None:
    if name not in PEERS:
        raise ConfigError(f'{where} {name}: no such peer{did_you_mean(name, PEERS)}. Known: {", ".join(PEERS)}')
