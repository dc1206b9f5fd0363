"""Which tokens carry loss: none of a prompt, none that nothing comes before, and as many in a batch as in its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from swift.core.types import ROLES, Encoded, Segments
from swift.data.collate import collate
from swift.verify.finding import Finding

PART = 'mask'
PROMPT = [ROLES.index(role) for role in ('system', 'user', 'tool')]


def check(rows: Sequence[Encoded], *, prompts: bool) -> Iterator[Finding]:
    """Findings in tokens, of which there may be none.

    Args:
        prompts: whether prompts are to carry no loss.
    """
    first = sum(int(row.weight[at] != 0) for row in rows for at in _beginnings(row))
    yield _finding('first tokens with loss', first)
    yield _finding('rows without loss', sum(not row.weight.any() for row in rows))
    if prompts:
        learned = [np.isin(row.role, PROMPT) & (row.weight != 0) for row in rows]
        yield _finding('prompt tokens with loss', sum(int(each.sum()) for each in learned))
    batch = collate(rows)
    of_rows = sum(float(row.weight.astype(np.float64).sum()) for row in rows)
    yield _finding('weight lost in the batch', abs(float(batch.weight.double().sum()) - of_rows))
    targets = sum(int(np.count_nonzero(row.weight)) for row in rows)
    yield _finding('targets lost in the batch', abs(int((batch.weight != 0).sum()) - targets))


def _beginnings(row: Encoded) -> list[int]:
    """Where the sequences of the row begin."""
    segments = row.segments or Segments((len(row),))
    return [start for start, parent in zip(segments.starts, segments.parents, strict=False) if parent < 0]


def _finding(name: str, difference: float) -> Finding:
    return Finding(part=PART, name=name, what='tokens', difference=float(difference), place='swift/templates')
