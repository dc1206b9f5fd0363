"""Which of how many processes this is. The only reader of the variables that torchrun sets."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get('RANK', '0'))


def world_size() -> int:
    """How many processes take part."""
    return int(os.environ.get('WORLD_SIZE', '1'))


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return rank() == 0
