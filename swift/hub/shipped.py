"""Models that Python packages carry: found where they are installed, without importing the package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ALIASES = Path(__file__).with_name('aliases.yaml')


@dataclass(frozen=True, slots=True)
class Shipped:
    """One entry of ``aliases.yaml``: a file inside an importable module, and the names that mean it."""

    names: tuple[str, ...]
    package: str
    module: str
    file: str
    note: str


def find(name: str) -> tuple[Path, Shipped] | None:
    """The file that an installed package has for this model name (case does not matter), or None."""
    for entry in entries():
        if name.lower() in (each.lower() for each in entry.names):
            spec = importlib.util.find_spec(entry.module)
            for root in spec.submodule_search_locations or () if spec else ():
                if (path := Path(root, entry.file)).is_file():
                    return path, entry
    return None


@cache
def entries() -> tuple[Shipped, ...]:
    """All models that packages are known to carry, installed or not."""
    rows = yaml.safe_load(ALIASES.read_text(encoding='utf-8'))
    return tuple(Shipped(names=tuple(row.pop('names')), **row) for row in rows)
