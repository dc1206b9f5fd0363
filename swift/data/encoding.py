"""Rows to tokens, with every row accounted for and looked at: what both the store and live feeds do with a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from swift.core.errors import RowError
from swift.core.types import Encoded, Origin, Sample
from swift.data.account import Account, Rejected
from swift.data.lint import Examiner

Encode = Callable[[Sample], list[Encoded]]
Read = Callable[[], Sample | None]
"""Gives a row, or None for one that is left out; raises RowError."""
Outcome = list[Encoded] | RowError


@dataclass(frozen=True, slots=True)
class Encoder:
    """An ``encode`` that also takes many rows: it may read ahead, and gives RowErrors in the place of their rows."""

    one: Encode
    many: Callable[[Iterable[Sample]], Iterator[Outcome]]

    def __call__(self, sample: Sample) -> list[Encoded]:
        return self.one(sample)


class Encoding:
    """Calls ``encode`` (a template's) for each row and keeps the account.

    ``encode`` returns one Encoded or several; none leaves the row out on purpose (``--truncation_strategy delete``);
    RowError rejects it.
    """

    def __init__(self, encode: Encode, examiner: Examiner):
        self.account, self._encode = Account(), encode
        self._many = encode.many if isinstance(encode, Encoder) else partial(_one_by_one, encode)
        self.examiner: Examiner | None = examiner
        """None when enough has been looked at."""

    def row(self, origin: Origin, read: Read) -> list[Encoded]:
        """The sequences of one row; none when it is left out or rejected."""
        try:
            sample = read()
            return self._told(origin, sample, [] if sample is None else self._encode(sample))
        except RowError as error:
            return self._told(origin, None, error)

    def rows(self, rows: Iterable[tuple[Origin, Read]]) -> Iterator[list[Encoded]]:
        """The sequences of each row, in their order: the account says of a row what it says after ``row``."""
        waiting: deque[tuple[Origin, Sample | None, Outcome]] = deque()  # read, and not yet told of

        def samples() -> Iterator[Sample]:
            for origin, read in rows:
                try:
                    sample = read()
                except RowError as error:
                    waiting.append((origin, None, error))
                    continue
                waiting.append((origin, sample, []))
                if sample is not None:
                    yield sample

        for outcome in self._many(samples()):
            while waiting[0][1] is None:
                yield self._told(*waiting.popleft())
            origin, sample, _ = waiting.popleft()
            yield self._told(origin, sample, outcome)
        while waiting:
            yield self._told(*waiting.popleft())

    def _told(self, origin: Origin, sample: Sample | None, outcome: Outcome) -> list[Encoded]:
        """The sequences of a row that was encoded or refused, when the account has it."""
        try:
            if isinstance(outcome, RowError):
                raise outcome
            encoded = [] if sample is None else [_plain(each, sample.channel) for each in outcome]
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


def _one_by_one(encode: Encode, samples: Iterable[Sample]) -> Iterator[Outcome]:
    for sample in samples:
        try:
            outcome = encode(sample)
        except RowError as error:
            outcome = error
        yield outcome


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
