"""Rows to tokens, with every row accounted for and looked at: what both the store and live feeds do with a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from swift.core.errors import RowError
from swift.core.types import Encoded, Origin, Sample
from swift.data.account import Account, Rejected
from swift.data.lint import Examiner

Encode = Callable[[Sample], list[Encoded]]


class Encoding:
    """Calls ``encode`` (a template's) for each row and keeps the account.

    ``encode`` returns one Encoded or several; none leaves the row out on purpose (``--truncation_strategy delete``);
    RowError rejects it.
    """

    def __init__(self, encode: Encode, examiner: Examiner):
        self.account, self._encode = Account(), encode
        self.examiner: Examiner | None = examiner
        """None when enough has been looked at."""

    def row(self, origin: Origin, read: Callable[[], Sample | None]) -> list[Encoded]:
        """The sequences of one row; none when it is left out or rejected. ``read`` gives its Sample."""
        try:
            sample = read()
            encoded = [] if sample is None else [_plain(each, sample.channel) for each in self._encode(sample)]
        except RowError as error:
            self.account.rejected.append(Rejected(origin, str(error).removeprefix(f'{origin}: ')))
            return []
        if sample is None or not encoded:
            self.account.dropped += 1
            return []
        self.account.used += 1
        if self.examiner is not None:
            self.examiner.add(sample, encoded)
        return encoded


def _plain(each: Encoded, channel: str | None) -> Encoded:
    """The dtypes that the store keeps, and the row's channel.

    Raises RowError for a sequence that nothing can be learned from by shape.
    """
    if not len(each.input_ids):
        raise RowError('empty sequence: the template made no tokens of this row')
    ids, weight = np.asarray(each.input_ids, np.int32), np.asarray(each.weight, np.float32)
    assert len(ids) == len(weight) and weight[0] == 0, 'a first token has nothing to be predicted from'
    assert each.segments is None or each.segments.total == len(ids), 'segments lie end to end over the whole row'
    return replace(each, input_ids=ids, weight=weight, role=np.asarray(each.role, np.uint8), channel=channel)
