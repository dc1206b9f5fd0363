"""Whether the libraries of the ``serve`` extra are there: asked once, before anything of this room is imported."""

from __future__ import annotations

from swift.core.errors import SwiftError, need


def check() -> None:
    """Raises SwiftError naming the extra."""
    try:
        need('fastapi')
        need('uvicorn')
    except SwiftError as error:
        raise SwiftError("serving needs libraries of its own: pip install 'swift[serve]'") from error
