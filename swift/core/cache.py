"""Where swift keeps what it can make again: converted models, compiled kernels, token stores, records of downloads."""

from __future__ import annotations

import os
from pathlib import Path


def folder(room: str) -> Path:
    """``$SWIFT_CACHE/room``, else ``room`` in ``swift`` of the user's cache folder. It need not exist yet."""
    root = os.environ.get('SWIFT_CACHE')
    if root is None:
        root = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'swift')
    return Path(root).expanduser().absolute() / room
