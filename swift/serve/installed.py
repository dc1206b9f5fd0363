"""Whether the libraries of the ``serve`` extra are there: looked up before anything of this room is imported."""

from __future__ import annotations

from importlib.util import find_spec

from swift.core.errors import SwiftError

LIBRARIES = ('fastapi', 'uvicorn')


def check() -> None:
    """Raises SwiftError naming what to install. Imports nothing, so that the engine can begin to load first."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise SwiftError(f'serving needs {" and ".join(missing)}: pip install {" ".join(missing)}')
