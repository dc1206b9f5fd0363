"""Who asks: API keys as digests, compared in constant time, known by their ids everywhere else.

A key given on a command line, in the environment or in a file is hashed at once; nothing here keeps or shows its text.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, did_you_mean
from swift.serve.errors import ApiError
from swift.serve.ledger import Allowance


@dataclass(frozen=True)
class Key:
    """A key by its digest. ``id`` is what logs, metrics and limits call it; ``admin`` may change what is served."""

    id: str
    digest: bytes
    allowance: Allowance = field(default_factory=Allowance)
    admin: bool = False


ANYBODY = Key('anonymous', b'', admin=True)
"""Who asks where no key is asked for: only on the machine itself."""


def key(text: str, *, id: str | None = None, allowance: Allowance | None = None, admin: bool = False) -> Key:
    """A key from its text. Without an id it is called by the beginning of its digest."""
    digest = hashlib.sha256(text.encode()).digest()
    return Key(id or f'key-{digest.hex()[:8]}', digest, allowance or Allowance(), admin)


class Keys:
    """All keys of a server. An empty set lets everybody in, as ``anybody``."""

    def __init__(self, keys: Iterable[Key], *, anybody: Key = ANYBODY):
        self._keys, self._anybody = tuple(keys), anybody
        ids = [each.id for each in self._keys]
        if len(set(ids)) < len(ids):
            raise ConfigError('two API keys have the same id; give each its own')

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def all(self) -> tuple[Key, ...]:
        """Everybody who may come in."""
        return self._keys or (self._anybody,)

    def find(self, authorization: str | None, alone: str | None = None) -> Key:
        """The key of an ``Authorization: Bearer`` header, or else of ``x-api-key``. Raises ApiError 401."""
        if not self._keys:
            return self._anybody
        scheme, _, text = (authorization or f'Bearer {alone or ""}').partition(' ')
        digest = hashlib.sha256(text.strip().encode()).digest()
        found = None
        for each in self._keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(each.digest, digest):
                found = each
        if found is None or scheme.lower() != 'bearer':
            what = 'the API key is wrong' if text else 'no API key was given'
            raise ApiError(
                401, f'{what}; send Authorization: Bearer KEY, or x-api-key: KEY', 'invalid_api_key', headers=CHALLENGE
            )
        return found


CHALLENGE = {'www-authenticate': 'Bearer'}


# ------------------------------------------------------------------------------------------------------------- files
def read_file(path: Path, allowance: Allowance) -> list[Key]:
    """Keys of a YAML file: ``id: {key: TEXT}`` or ``id: {sha256: HEX}``, with limits of their own and ``admin: true``.

    Args:
        allowance: limits of keys that have no others.

    Raises:
        ConfigError: with every problem; none of them shows a key.
    """
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'--api_key_file {path}: cannot be read ({type(error).__name__})') from None
    if not isinstance(said, dict) or not said:
        raise ConfigError(f'--api_key_file {path}: expected a line "id: {{key: TEXT}}" for each key')
    found, problems = [], []
    for id, entry in said.items():
        try:
            found.append(_key_of(str(id), entry, allowance))
        except ValueError as error:
            problems.append(f'--api_key_file {path}: {id}: {error}')
    if problems:
        raise ConfigError(problems)
    return found


LIMITS = tuple(each.name for each in fields(Allowance))
KNOWN = ('key', 'sha256', 'admin', *LIMITS)


def _key_of(id: str, entry: Any, allowance: Allowance) -> Key:
    if not isinstance(entry, Mapping):
        raise ValueError('expected {key: TEXT} or {sha256: HEX}')
    if unknown := [name for name in entry if name not in KNOWN]:
        raise ValueError(f'unknown {unknown[0]}{did_you_mean(str(unknown[0]), KNOWN)} Known: {", ".join(KNOWN)}')
    if ('key' in entry) == ('sha256' in entry):
        raise ValueError('give key or sha256, one of them')
    limits = {name: entry[name] for name in LIMITS if name in entry}
    if wrong := [name for name, value in limits.items() if type(value) is not int or value < 1]:
        raise ValueError(f'{wrong[0]} must be a whole number of at least 1')
    own = replace(allowance, **limits)
    admin = entry.get('admin', False) is True
    if 'key' in entry:
        if not isinstance(entry['key'], str) or not entry['key']:
            raise ValueError('key must be text; put quotes around it')
        return key(entry['key'], id=id, allowance=own, admin=admin)
    try:
        digest = bytes.fromhex(str(entry['sha256']))
    except ValueError:
        digest = b''
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError('sha256 must be 64 hexadecimal digits')
    return Key(id, digest, own, admin)
