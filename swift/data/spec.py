"""The little language of ``--dataset``: ``[hf::|ms::]<id or path>[:subset/subset][#count]``.

A path that exists is taken as it is, however many colons and hashes are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swift.core.errors import ConfigError

HUBS = {'hf': True, 'ms': False}


@dataclass(frozen=True, slots=True)
class Spec:
    """One dataset as typed. ``use_hf`` None leaves the hub to the run; ``count`` None means every row once."""

    name: str
    use_hf: bool | None = None
    subsets: tuple[str, ...] = ()
    count: int | None = None
    typed: str = ''


def parse(typed: str) -> Spec:
    """Take a dataset apart.

    Raises:
        ConfigError: no name, or a count that is no positive number.
    """
    if not typed.strip():
        raise ConfigError('--dataset: a name is empty')
    rest, use_hf = typed, None
    prefix, separator, behind = typed.partition('::')
    if separator and prefix.lower() in HUBS:
        rest, use_hf = behind, HUBS[prefix.lower()]
    rest, count = _cut(rest, '#')
    name, subsets = _cut(rest, ':')
    if not name:
        raise ConfigError(f'--dataset {typed!r}: the name is missing')
    chosen = tuple(each for each in subsets.split('/') if each) if subsets else ()
    return Spec(name, use_hf, chosen, _count(count, typed), typed)


def _cut(text: str, mark: str) -> tuple[str, str | None]:
    """``text`` up to the last ``mark`` and what is behind it, unless all of it is a path that exists."""
    if mark not in text or Path(text).exists():
        return text, None
    if mark == ':' and len(text) > 2 and text[1] == ':' and text[2] in '/\\' and text.count(':') == 1:
        return text, None  # a drive letter
    head, _, tail = text.rpartition(mark)
    return head, tail


def _count(text: str | None, typed: str) -> int | None:
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) == 0:
        raise ConfigError(f'--dataset {typed!r}: {text!r} behind # is no number of rows (1 or more)')
    return int(text)
