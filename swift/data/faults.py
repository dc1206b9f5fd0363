"""What is wrong with a row that can be read, before it is tokenised: names of rules of ``lint.RULES``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from swift.core.types import Message, Sample


def faults(sample: Sample, *, control: re.Pattern[str] | None = None) -> Iterable[str]:
    """The rules that a row breaks.

    Args:
        control: finds control tokens of the template in a text.
    """
    if control is not None and any(control.search(text) for text in _texts(sample)):
        yield 'leaked-control'
    if any(_is_empty(each) for each in _turns(sample)):
        yield 'empty-turn'
    if sample.messages and not _in_order(sample.messages, answered=is_answered(sample)):
        yield 'role-order'
    if sample.rejected is not None:
        yield from _pair_faults(sample.messages, sample.rejected)
        if sample.margin is not None and sample.margin < 0:
            yield 'negative-margin'
    positives = [_said(each) for each in sample.positives]
    if any(_said(each) in positives for each in sample.negatives):
        yield 'false-negative'


def is_answered(sample: Sample) -> bool:
    """Whether the conversation has an answer to learn, and is not only read or compared with texts."""
    if sample.positives or sample.negatives or sample.steps:
        return False
    return sample.label is None or any(each.role == 'assistant' for each in sample.messages)


def labels(sample: Sample) -> list[float]:
    """The numbers of a row's label."""
    if sample.label is None:
        return []
    return [float(each) for each in sample.label] if isinstance(sample.label, list) else [float(sample.label)]


def _pair_faults(better: Sequence[Message], worse: Sequence[Message]) -> Iterable[str]:
    """What makes a pair teach nothing, or something else than which answer is better."""
    if _said(better) == _said(worse):
        yield 'same-pair'
        return
    if any(_is_empty(each[-1]) for each in (better, worse) if each):
        yield 'empty-answer'
        return
    parting = next((i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if _said([a]) != _said([b])), None)
    if parting is None or {better[parting].role, worse[parting].role} - {'assistant', 'tool'}:
        yield 'other-prompt'
    elif parting == len(better) - 1 == len(worse) - 1 and _is_beginning(better[-1], worse[-1]):
        yield 'cut-answer'


def _is_beginning(a: Message, b: Message) -> bool:
    """Whether one answer is only how the other begins, and breaks off within a sentence."""
    if a.tool_calls or b.tool_calls:
        return False
    short, long = sorted((a.content.strip(), b.content.strip()), key=len)
    return long.startswith(short) and short[-1:].isalnum()


def _said(messages: Sequence[Message]) -> list[tuple]:
    """What turns say, without blanks around it and without weights."""
    return [(each.role, each.content.strip(), each.reasoning, each.tool_calls) for each in messages]


def _turns(sample: Sample) -> Iterable[Message]:
    """Every turn that should say something; ``empty-answer`` speaks of the last ones of a pair."""
    rejected = sample.rejected or ()
    yield from sample.messages[:-1] if rejected else sample.messages
    yield from rejected[:-1]
    for each in (*sample.positives, *sample.negatives):
        yield from each


def _texts(sample: Sample) -> Iterable[str]:
    yield from filter(None, [sample.text])
    for each in (sample.messages, sample.rejected or (), *sample.positives, *sample.negatives):
        for message in each:
            yield message.content
    yield from sample.steps


def _is_empty(message: Message) -> bool:
    return not (message.content.strip() or message.tool_calls or (message.reasoning or '').strip())


def _in_order(messages: Sequence[Message], *, answered: bool) -> bool:
    """System first, then user and assistant in turn; tool results follow a call and are answered by the assistant.

    A lone answer is a document. A conversation that is not ``answered`` ends with anyone.
    """
    if len(messages) == 1:
        return messages[0].role == 'assistant' or not answered
    before = None
    for message in messages:
        role = message.role
        allowed = {
            'system': before is None,
            'user': before in (None, 'system', 'assistant'),
            'assistant': before in ('user', 'tool'),
            'tool': before in ('assistant', 'tool'),
        }
        if not allowed[role]:
            return False
        before = role
    return before == 'assistant' or not answered
