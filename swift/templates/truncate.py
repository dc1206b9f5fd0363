"""``--truncation_strategy``: what happens to a row of more than ``--max_length`` tokens.

- ``delete`` (the default): the row is left out.
- ``left``: its last ``max_length`` tokens are kept, so the last answer and its stop token survive; the beginning (bos,
  system prompt, first turns) is lost.
- ``right``: its first ``max_length`` tokens are kept; the end of the last answer and its stop token are lost.
- ``split``: it becomes rows of ``max_length`` tokens (``swift pt``).
- ``raise``: the run ends.

A cut row says so (``Encoded.truncated``), and a row that a cut leaves without anything to train is refused. The first
token of a row is never trained: nothing predicts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.core.errors import DataError, RowError
from swift.core.types import Encoded

Strategy = Literal['delete', 'left', 'right', 'split', 'raise']


@dataclass(frozen=True)
class Truncate:
    """``length`` None is no limit."""

    strategy: Strategy = 'delete'
    length: int | None = None

    def __call__(self, encoded: Encoded) -> list[Encoded]:
        """The row, or what becomes of it: nothing, one row or several.

        Raises:
            RowError: a cut leaves nothing to train.
            DataError: the row is too long, and the strategy is to raise.
        """
        size, limit = len(encoded), self.length
        if limit is None or size <= limit:
            return [encoded]
        if self.strategy == 'split':
            return [_cut(encoded, start, min(start + limit, size)) for start in range(0, size, limit)]
        if self.strategy == 'left':
            return [_trainable(_cut(encoded, size - limit, size), encoded, self)]
        if self.strategy == 'right':
            return [_trainable(_cut(encoded, 0, limit), encoded, self)]
        if self.strategy == 'raise':
            raise DataError(
                f'{encoded.origin}: {size} tokens, more than --max_length {limit}; raise it, or choose another '
                '--truncation_strategy (delete, left, right)'
            )
        return []


def _cut(encoded: Encoded, start: int, end: int) -> Encoded:
    weight = encoded.weight[start:end].copy()
    weight[0] = 0
    ids, role = encoded.input_ids[start:end].copy(), encoded.role[start:end].copy()
    return Encoded(ids, weight, role, encoded.origin, truncated=True)


def _trainable(cut: Encoded, whole: Encoded, rule: Truncate) -> Encoded:
    if whole.weight.any() and not cut.weight.any():
        raise RowError(
            f'{len(whole)} tokens: cut {rule.strategy} to --max_length {rule.length}, nothing of an answer is left'
        )
    return cut
