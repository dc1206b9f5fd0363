"""Rows of several sequences that are trained on together: a chosen and a rejected answer, an answer and its prompt.

A group is one Encoded. What its sequences begin with in common is laid down once, as a segment that they continue;
the model then computes it once. Sums over a sequence run over what it continues too, so nothing changes but the work.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

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
        return _laid(members, members, (), label)
    rests = [_cut(each, size, len(each)) for each in members]
    return _laid(members, [_cut(members[0], 0, size), *rests], (-1, *[0] * len(rests)), label)


def chain(members: Sequence[Encoded], *, label: tuple[float, ...] = ()) -> Encoded:
    """Sequences each of which goes on where the one before it ends, as one row that has what they share once.

    [common to the first two, rest of the first, common to the second and third beyond that, rest of the second, ...]
    """
    shared = [_common(pair) for pair in itertools.pairwise(members)]
    if not shared or shared[0] < SHORTEST or any(b <= a for a, b in itertools.pairwise(shared)):
        return group(members, label=label)
    parts: list[Encoded] = []
    parents: list[int] = []
    for i, (start, end) in enumerate(itertools.pairwise([0, *shared])):
        trunk = 2 * i  # segments 2i are the trunk, each followed by the rest of sequence i
        parts += [_cut(members[i], start, end), _cut(members[i], end, len(members[i]))]
        parents += [trunk - 2 if i else -1, trunk]
    last = members[-1]
    return _laid(members, [*parts, _cut(last, shared[-1], len(last))], (*parents, 2 * len(shared) - 2), label)


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
        given = 'no label' if sample.label is None else f'wrong label {sample.label!r}'
        raise RowError(f'{given}: an answer that people judged needs label true or false')
    whole = _one(encode, sample, sample.messages)
    if whole is None:
        return []
    size = int(np.argmax(whole.weight != 0))
    if not whole.weight.any():
        raise RowError('the answer has no token that carries loss')
    segments = Segments((size, len(whole) - size), (-1, 0))
    return [replace(whole, segments=segments, label=(float(sample.label),))]


def steps(encode: Encode, sample: Sample) -> list[Encoded]:
    """[answer up to its first step, up to its second, ...], steps on lines of their own; the label has one for each."""
    if not sample.steps:
        raise RowError('no steps: a process-reward row needs completions, and as many labels')
    if not isinstance(sample.label, list) or len(sample.label) != len(sample.steps):
        raise RowError(f'label {sample.label!r}: one number for each of the {len(sample.steps)} steps')
    answers = ('\n'.join(sample.steps[: i + 1]) for i in range(len(sample.steps)))
    asked = replace(sample, steps=(), label=None)
    members = [_one(encode, asked, (*sample.messages, Message('assistant', each))) for each in answers]
    kept = [each for each in members if each is not None]
    if len(kept) < len(members):  # too long, and left out on purpose
        return []
    return [chain(kept, label=tuple(map(float, sample.label)))]


ENCODERS = {'preference': preference, 'verdict': verdict, 'steps': steps}
"""What a task makes of a row: (template's encode, Sample) -> rows for the store."""


def apart(row: Encoded) -> list[Encoded]:
    """The segments of a row one by one, in their order; a row that is one sequence as it is."""
    if row.segments is None:
        return [row]
    starts = row.segments.starts
    return [replace(_cut(row, a, b), segments=None) for a, b in itertools.pairwise(starts)]


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


def _laid(
    members: Sequence[Encoded], parts: Sequence[Encoded], parents: tuple[int, ...], label: tuple[float, ...]
) -> Encoded:
    """The row of ``members`` whose segments are ``parts``."""
    return replace(
        members[0],
        input_ids=np.concatenate([each.input_ids for each in parts]),
        weight=np.concatenate([each.weight for each in parts]),
        role=np.concatenate([each.role for each in parts]),
        truncated=any(each.truncated for each in members),
        segments=Segments(tuple(len(each) for each in parts), parents),
        label=label,
    )


def _cut(each: Encoded, start: int, end: int) -> Encoded:
    return replace(each, input_ids=each.input_ids[start:end], weight=each.weight[start:end], role=each.role[start:end])
