"""Floor 3: which weights learn. A tuner is ``(Builder, TunerArgs) -> Builder``; nothing is loaded before ``build``."""

from collections.abc import Callable

from swift.core.registry import Registry
from swift.core.types import Builder

TUNERS: Registry[Callable[..., Builder]] = Registry(
    'tuner_type',
    {
        'lora': 'swift.tuners.lora:lora',
        'full': 'swift.tuners.partial:full',
    },
)
