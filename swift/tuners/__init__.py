"""Floor 3: which weights learn. A tuner is ``(Builder, TunerArgs) -> Builder``; nothing is loaded before ``build``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swift.core.registry import Registry

if TYPE_CHECKING:
    from swift.core.types import Builder

TUNERS: Registry[Callable[..., Builder]] = Registry(
    'tuner_type',
    {
        'lora': 'swift.tuners.lora:lora',
        'full': 'swift.tuners.partial:full',
    },
)
