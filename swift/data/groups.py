"""Rows of several sequences that are trained on together: a chosen and a rejected answer, an answer and its prompt.

A group is one Encoded. What its sequences begin with in common is laid down once, as a segment that they continue;
the model then computes it once. Sums over a sequence run over what it continues too, so nothing changes but the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from swift.core.errors import RowError
from swift.core.types import Encoded, Message, Sample, Segments
from swift.data.encoding import Encode

SHORTEST = 8
"""Tokens that a prefix must have to be shared; fewer are cheaper to compute again."""


def group(members: Sequence[Encoded], *, label: tuple[float, ...] = (), share: bool = True) -> Encoded:
    """Sequences as one row, [prefix, rest of the first, rest of the second, ...], or end to end if they share none."""
    size = _common(members) if share and len(members) > 1 else 0
    if size < SHORTEST:
        segments, parts = Segments(tuple(len(each) for each in members)), [(each, 0) for each in members]
    else:
        rests = tuple(len(each) - size for each in members)
        segments = Segments((size, *rests), (-1, *[0] * len(rests)))
        parts = [(_cut(members[0], 0, size), 0), *((each, size) for each in members)]
    return replace(
        members[0],
        input_ids=np.concatenate([each.input_ids[start:] for each, start in parts]),
        weight=np.concatenate([each.weight[start:] for each, start in parts]),
        role=np.concatenate([each.role[start:] for each, start in parts]),
        truncated=any(each.truncated for each in members),
        segments=segments,
        label=label,
    )


def preference(encode: Encode, sample: Sample) -> list[Encoded]:
    """[chosen, rejected]; the label is the margin, where the row has one."""
    if sample.rejected is None:
        raise RowError(
            'no rejected answer: a preference row needs rejected_response, rejected_messages, or chosen and rejected'
        )
    members = [_one(encode, sample, sample.messages), _one(encode, sample, sample.rejected)]
    kept = [each for each in members if each is not None]
    if len(kept) < 2:  # too long, and left out on purpose: a pair is never split
        return []
    for each, name in zip(kept, ('chosen', 'rejected'), strict=True):
        if not each.weight.any():
            raise RowError(f'the {name} answer has no token that carries loss')
    return [group(kept, label=() if sample.margin is None else (float(sample.margin),))]


def verdict(encode: Encode, sample: Sample) -> list[Encoded]:
    """[answer], cut where the answer begins; the label is 1.0 for an answer that is wanted and 0.0 for one that is not.

    The prompt is a segment of its own, so that it can be put before the answers of other rows.
    """
    if not isinstance(sample.label, bool | int | float) or sample.label not in (0, 1):
        raise RowError(f'label {sample.label!r}: an answer that people judged needs label true or false')
    whole = _one(encode, sample, sample.messages)
    if whole is None:
        return []
    size = int(np.argmax(whole.weight != 0))
    if not whole.weight.any():
        raise RowError('the answer has no token that carries loss')
    segments = Segments((size, len(whole) - size), (-1, 0))
    return [replace(whole, segments=segments, label=(float(sample.label),))]


ENCODERS = {'preference': preference, 'verdict': verdict}
"""What a task makes of a row: (template's encode, Sample) -> rows for the store."""


def encoder(kind: str, encode: Encode) -> Encode:
    """A template's ``encode`` for rows of this kind."""
    return partial(ENCODERS[kind], encode)


def _one(encode: Encode, sample: Sample, messages: tuple[Message, ...]) -> Encoded | None:
    """The one sequence of a conversation; None when truncation leaves it out."""
    made = encode(replace(sample, messages=messages, rejected=None))
    if len(made) > 1:
        raise RowError('truncation splits the answer; take --truncation_strategy delete or left')
    return made[0] if made else None


def _common(members: Sequence[Encoded]) -> int:
    """Tokens that all begin with, with the same weights, so that each keeps at least one of its own."""
    first, size = members[0], min(len(each) for each in members) - 1
    for each in members[1:]:
        same = (first.input_ids[:size] == each.input_ids[:size]) & (first.weight[:size] == each.weight[:size])
        size = size if same.all() else int(np.argmin(same))
    return size


def _cut(each: Encoded, start: int, end: int) -> Encoded:
    return replace(each, input_ids=each.input_ids[start:end], weight=each.weight[start:end], role=each.role[start:end])
