"""Floor 3: what is minimised. Pure functions of (Outputs, Batch); see ``core.types.Objective``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swift.core.registry import Registry

if TYPE_CHECKING:
    from swift.core.types import Objective

OBJECTIVES: Registry[type[Objective]] = Registry(
    'objective',
    {
        'sft': 'swift.objectives.sft:NextToken',
        'pt': 'swift.objectives.sft:NextToken',
    },
)
