"""What people type besides the names of flags: old names, nested YAML keys, variables, established flags to come."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from swift.core.flags import Kind


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name for ``flag``; without a flag the name is accepted and means nothing.

    ``values`` translates what may be given; None there means: as if not given. Several flags in ``flag``, separated by
    spaces, share out a list.
    """

    flag: str | None
    values: Mapping[str, str | None] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An established flag that is not built yet (``later``) or has no effect here (``idle``).

    With ``values`` and no ``kind`` the flag itself is built and only these values of it are not. With a ``kind`` the
    row stands for the whole flag, of this verb, whatever the groups say.
    """

    name: str
    verbs: tuple[str, ...]
    state: Literal['later', 'idle']
    values: tuple[str, ...]
    kind: Kind | None
    default: Any
    note: str


@dataclass(frozen=True)
class Vocabulary:
    """Everything that one command line tool understands beyond its flags.

    ``aliases``: old name -> flag. ``values``: flag -> old value -> value (None: as if not given). ``paths``: dotted key
    of nested YAML -> flag, ``a.*`` for any key below a. ``sections``: YAML keys under which flags may stand as they
    are. ``variables``: environment variable -> flag. ``table``: file of ``Row``. ``elsewhere``: says which other verbs
    take a flag.
    """

    aliases: Mapping[str, Alias] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    paths: Mapping[str, Alias] = field(default_factory=dict)
    sections: frozenset[str] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    table: Path | None = None
    elsewhere: Callable[[str, str], str] = lambda verb, name: ''

    def rows(self, verb: str) -> dict[str, list[Row]]:
        """Flag name -> the rows about it, for one verb."""
        return _rows(self.table, verb) if self.table else {}

    def is_section(self, path: str) -> bool:
        """Whether a mapping may stand under this dotted key."""
        return path in self.sections or any(key.startswith(f'{path}.') for key in self.paths)

    def path(self, path: str) -> Alias | None:
        """What a dotted key means."""
        return self.paths.get(path) or self.paths.get(f'{path.rpartition(".")[0]}.*')


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a tab-separated table as dictionaries of its heading."""
    heading, *lines = path.read_text(encoding='utf-8').splitlines()
    names = heading.split('\t')
    return [dict(zip(names, line.split('\t'), strict=True)) for line in lines]


@cache
def _rows(path: Path, verb: str) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for line in read_table(path):
        verbs = tuple(line['verbs'].split(','))
        if verb not in verbs:
            continue
        row = Row(
            name=line['name'],
            verbs=verbs,
            state='idle' if line['state'] == 'idle' else 'later',
            values=tuple(filter(None, line['values'].split('|'))),
            kind=Kind.named(line['type']) if line['type'] else None,
            default=json.loads(line['default']) if line['default'] else None,
            note=line['note'],
        )
        rows.setdefault(row.name, []).append(row)
    return rows
