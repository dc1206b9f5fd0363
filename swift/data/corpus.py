"""Tables and how their rows are read: every row of a run has one number, and nothing of it is in memory.

Recipe  what happens to a raw row: the user's function, names filled in, ``convert``
Part    the tables of one dataset, with their recipe
Corpus  parts laid end to end; ``sample(i)`` reads row i
"""

from __future__ import annotations

import hashlib
import inspect
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from swift.core.errors import DataError, RowError
from swift.core.types import Origin, Sample
from swift.data.convert import Reading, convert
from swift.data.rows import fields
from swift.data.tables import Block, Handle, Table, index

PLACEHOLDERS = {'{{NAME}}': 'model_name', '{{AUTHOR}}': 'model_author'}
LANGUAGES = ('zh', 'en')  # the order in which --model_name gives names

Prepare = Callable[[dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class Recipe:
    """What happens to a raw row before it is a Sample.

    ``prepare`` is the dataset's own function; it returns None to leave a row out. ``names`` replaces placeholders, by
    language, when the dataset asks for it.
    """

    reading: Reading = field(default_factory=Reading)
    prepare: Prepare | None = None
    names: Mapping[str, Mapping[str, str]] | None = None

    def sample(self, row: Any, origin: Origin) -> Sample | None:
        """The Sample, or None when the row is left out on purpose. Raises RowError."""
        if self.names is not None:
            row = self._named(fields.mapping(row, 'the row'))
        if self.prepare is not None:
            row = _prepared(self.prepare, row)
            if row is None:
                return None
        return convert(row, origin, self.reading)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the same raw row could become another Sample."""
        return digest(repr(self.reading), repr(self.names), self.prepare and source_of(self.prepare))

    def _named(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Replace placeholders in text columns, in the row's language."""
        names = self.names[row['tag'] if row.get('tag') in self.names else LANGUAGES[1]]
        out = dict(row)
        for key, value in row.items():
            if isinstance(value, str) and '{{' in value:
                for placeholder, name in names.items():
                    out[key] = out[key].replace(placeholder, name)
        return out


@dataclass(frozen=True)
class Part:
    """One dataset of a mix."""

    name: str
    tables: Sequence[Table]
    recipe: Recipe

    def read(self, table: int, handle: Handle) -> Any:
        """The raw row. Raises RowError."""
        return self.tables[table].read(handle)

    def origin(self, table: int, handle: Handle) -> Origin:
        return Origin(self.tables[table].path, handle.line)

    def sample(self, table: int, handle: Handle) -> Sample | None:
        """The row as a Sample; None when it is left out on purpose. Raises RowError."""
        return self.recipe.sample(self.read(table, handle), self.origin(table, handle))

    def fingerprint(self) -> str:
        """Changes whenever a row, or how it is read, does. Not kept: files may change while a run reads them."""
        return digest(self.recipe.fingerprint, *(table.fingerprint() for table in self.tables))


class Corpus:
    """Parts laid end to end. Rows are numbered from 0, part by part, table by table."""

    def __init__(self, parts: Sequence[Part]):
        self.parts = list(parts)
        self._tables = [(part, i) for part in self.parts for i in range(len(part.tables))]
        self._blocks: list[Block] = [index(part.tables[i]) for part, i in self._tables]
        self._starts = [0, *accumulate(len(block.starts) for block in self._blocks)]

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each part."""
        counts = dict.fromkeys(map(id, self.parts), 0)
        for (part, _), block in zip(self._tables, self._blocks, strict=True):
            counts[id(part)] += len(block.starts)
        return [counts[id(part)] for part in self.parts]

    @property
    def paths(self) -> list[str]:
        """Path of each table, in order."""
        return [part.tables[i].path for part, i in self._tables]

    def place(self, row: int) -> tuple[int, Handle]:
        """The number of the table that a row is in, and where in it."""
        table = bisect_right(self._starts, row) - 1
        return table, self._blocks[table].handle(row - self._starts[table])

    def origin(self, row: int) -> Origin:
        table, handle = self.place(row)
        part, i = self._tables[table]
        return part.origin(i, handle)

    def sample(self, row: int) -> Sample | None:
        """The row as a Sample; None when it is left out on purpose. Raises RowError."""
        table, handle = self.place(row)
        part, i = self._tables[table]
        return part.sample(i, handle)

    def fingerprint(self) -> str:
        """Changes whenever a row, or how it is read, does."""
        return digest(*(part.fingerprint() for part in self.parts))


def names_for(model_name: Sequence[str] | None, model_author: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """What placeholders become, by language. One name serves both languages.

    Raises:
        DataError: a name is missing.
    """
    given = {'model_name': _both(model_name), 'model_author': _both(model_author)}
    missing = [f'--{flag}' for flag, names in given.items() if not names]
    if missing:
        raise DataError(
            f'self-cognition rows say who the model is: give {" and ".join(missing)}, e.g. '
            "--model_name 小明 'Xiao Ming' --model_author 魔搭 ModelScope"
        )
    return {
        language: {placeholder: given[flag][i] for placeholder, flag in PLACEHOLDERS.items()}
        for i, language in enumerate(LANGUAGES)
    }


def _both(names: str | Sequence[str] | None) -> list[str]:
    names = [names] if isinstance(names, str) else list(names or ())
    return names * 2 if len(names) == 1 else names


def digest(*parts: str | bytes | None) -> str:
    """A short hash of texts and bytes; where one ends and the next begins counts."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else (part or '').encode('utf-8', 'backslashreplace')
        whole.update(len(data).to_bytes(8))
        whole.update(data)
    return whole.hexdigest()[:32]


def source_of(function: Any) -> str:
    """What identifies a user's function: the source of its whole module, since helpers beside it count too."""
    kind = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        text = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        code = getattr(kind, '__code__', None)
        text = f'{code.co_code!r}{code.co_consts!r}' if code else ''
    return f'{getattr(kind, "__qualname__", kind)}:{text}:{getattr(function, "__dict__", "")!r}'


def _prepared(prepare: Prepare, row: Any) -> dict[str, Any] | None:
    """Run the user's function on a copy of the row; what goes wrong in it is a fault of the row."""
    try:
        return prepare(dict(row) if isinstance(row, Mapping) else row)
    except RowError:
        raise
    except Exception as error:
        name = getattr(prepare, '__qualname__', type(prepare).__qualname__)
        raise RowError(f'preprocessing failed: {name} raised {type(error).__name__}: {error}') from error
