"""One registry for everything that is found by name: tuners, objectives, datasets, engines, ..."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from swift.core.errors import ConfigError, did_you_mean

T = TypeVar('T')


class Registry(Generic[T]):
    """Maps a name to an object, or to ``'module:attribute'`` that is imported on first use.

    ``kind`` is the word that error messages use. Built-ins and plug-ins register by the same call.
    """

    def __init__(self, kind: str, lazy: dict[str, str] | None = None):
        self.kind = kind
        self._entries: dict[str, Any] = dict(lazy or {})

    def register(self, name: str, *, replace: bool = False) -> Callable[[T], T]:
        """Decorator that registers an object under ``name``."""

        def keep(entry: T) -> T:
            self.add(name, entry, replace=replace)
            return entry

        return keep

    def add(self, name: str, entry: T | str, *, replace: bool = False) -> None:
        """Register ``entry``, or the lazy ``'module:attribute'``, under ``name``."""
        if name in self._entries and not replace:
            raise ConfigError(f'{self.kind} {name!r} is registered twice; pass replace=True to replace it')
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise ConfigError(
                f'unknown {self.kind} {name!r}{did_you_mean(name, self._entries)} Known: {", ".join(sorted(self))}'
            )
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(':')
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
