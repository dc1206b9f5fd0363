"""Floor 3: what is minimised. Pure functions of (Outputs, Batch); see ``core.types.Objective``."""

from collections.abc import Callable

from swift.core.registry import Registry
from swift.core.types import Objective
from swift.objectives.args import TaskArgs

OBJECTIVES: Registry[type[Objective]] = Registry(
    'objective',
    {
        'sft': 'swift.objectives.sft:NextToken',
        'pt': 'swift.objectives.sft:NextToken',
    },
)
TASKS: Registry[Callable[[TaskArgs], Objective]] = Registry(
    'task',
    {
        'embedding': 'swift.objectives.embedding:Embed',
        'reranker': 'swift.objectives.ranking:from_args',
        'generative_reranker': 'swift.objectives.ranking:from_args',
    },
)
"""What ``--task_type`` minimises, from the flags; ``seq_cls`` is ``classification.Classify(problem_type)``."""
