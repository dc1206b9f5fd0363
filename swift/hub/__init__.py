"""Floor 1: bytes from hubs, packages and disk to a local folder, and nothing else."""

from __future__ import annotations

from typing import Any

__all__ = ['fetch', 'safe_snapshot_download']


def __getattr__(name: str) -> Any:
    """Look a public name up in its module, so that reading flags imports none of them."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from swift.hub import download

    return getattr(download, name)
