"""What happens to a step whose loss or gradient is not finite: it is skipped, counted, named, and soon it is enough.

The backend updates nothing when a gradient is not finite. A loss that is not finite is caught before that. Both are
written to ``skipped.jsonl`` with the rows of the step; the search for fp16's loss scale, which overflows on purpose,
is not.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

from swift.core import files
from swift.core.errors import NumericalError
from swift.core.types import Batch

logger = logging.getLogger(__name__)

LIMIT = 10
"""Consecutive skipped steps that end a run."""
NAMED = 3


def skip(journal: Path, step: int, micro: list[Batch], *, loss: float, grad_norm: float, in_a_row: int) -> None:
    """Write a skipped step down.

    Args:
        journal: ``skipped.jsonl`` of the run.
        in_a_row: skipped steps up to this one, without a good step between.

    Raises:
        NumericalError: when ``in_a_row`` has reached the limit.
    """
    rows = [str(origin) for batch in micro for origin in batch.origins]
    record = {'step': step, 'loss': _number(loss), 'grad_norm': _number(grad_norm), 'in_a_row': in_a_row, 'rows': rows}
    files.append(journal, json.dumps(record, ensure_ascii=False))
    cause = f'loss {loss:.3g}, gradient norm {grad_norm:.3g}'
    more = f' and {len(rows) - NAMED} more' if len(rows) > NAMED else ''
    logger.warning('step %d skipped (%s); its rows: %s%s', step, cause, ', '.join(rows[:NAMED]), more)
    if in_a_row >= LIMIT:
        raise NumericalError(
            f'{in_a_row} steps in a row had no finite loss or gradient (the last: step {step}, {cause}). Their rows '
            f'are listed in {journal}. No checkpoint was written since they began: look at those rows with `swift '
            'inspect`, train in --torch_dtype bfloat16 or float32, or go on from the last checkpoint with a lower '
            '--learning_rate and --resume_changed allow'
        )


def _number(value: float) -> float | str:
    """JSON has no NaN."""
    return value if math.isfinite(value) else str(value)
