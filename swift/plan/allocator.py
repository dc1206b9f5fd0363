"""Settings of the libraries below torch that decide how much memory a process keeps beyond what it uses."""

from __future__ import annotations

import os

PRIMITIVES = '64'
"""oneDNN keeps compiled products by shape, about a megabyte each, and by default 1,024 of them: with rows of ever new
lengths a run of an hour keeps over a gigabyte for nothing. The layers of one micro-batch need about forty."""


def steady() -> None:
    """Bound what grows with the number of steps. Before torch multiplies its first matrix; what is set stays."""
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', PRIMITIVES)
