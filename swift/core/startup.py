"""What makes a process of ours start sooner: less rubbish collection, and libraries that are read once."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

NEW_OBJECTS, YOUNG, OLD = 50_000, 20, 20
"""When Python looks for cycles of objects that nobody uses. Its own 700 makes a quarter of the time of importing torch
and transformers, half a million objects that all stay."""


def calm() -> None:
    """Look for rubbish less often, in this process from now on. For processes that are ours, not for notebooks."""
    gc.set_threshold(NEW_OBJECTS, YOUNG, OLD)


def scan_once() -> None:
    """Import ``transformers.models`` with the names that importing ``transformers`` has found.

    Both read all 3,000 files of models for the names in them. Until one takes them from the other:
    https://github.com/huggingface/transformers/issues/44246
    """
    if 'transformers.models' in sys.modules:
        return
    import transformers
    from transformers.utils import import_utils

    scan = import_utils.define_import_structure
    folder = Path(transformers.__file__).parent / 'models'

    def known(path: str, prefix: str | None = None) -> dict:
        if prefix is not None or Path(path) != folder / '__init__.py':
            return scan(path, prefix=prefix)
        found = scan(folder, prefix='models')  # type: ignore[arg-type]  # as transformers asks; kept since
        strip = lambda names: {n.removeprefix('models.'): v for n, v in names.items() if n.startswith('models.')}
        return {needs: strip(names) for needs, names in found.items()}

    import_utils.define_import_structure = known
    try:
        importlib.import_module('transformers.models')
    finally:
        import_utils.define_import_structure = scan
