"""Floor 2: which model it is, and how it gets into memory."""

from __future__ import annotations

import importlib
from typing import Any

PUBLIC = {
    'describe': 'swift.models.info',
    'get_model_processor': 'swift.models.builder',
    'get_processor': 'swift.models.builder',
    'load': 'swift.models.builder',
    'outline': 'swift.models.builder',
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    """Look a public name up in its module, so that reading flags imports none of them."""
    if name not in PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(PUBLIC[name]), name)
