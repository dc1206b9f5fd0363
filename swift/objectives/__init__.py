"""Floor 3: what is minimised. Pure functions of (Outputs, Batch); see ``core.types.Objective``."""

from swift.core.registry import Registry
from swift.core.types import Objective

OBJECTIVES: Registry[type[Objective]] = Registry(
    'objective',
    {
        'sft': 'swift.objectives.sft:NextToken',
        'pt': 'swift.objectives.sft:NextToken',
    },
)
