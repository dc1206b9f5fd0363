"""Process-reward rows: a problem, and an answer step by step, each of which someone judged.

``prompt``, ``completions`` and ``labels`` (TRL); ``input`` and ``label`` as Math-Shepherd writes them, where every step
ends in a mark, and the same text says + or - in place of the mark.
"""

from __future__ import annotations

import re
from typing import Any

from swift.core.errors import RowError
from swift.data.rows import fields
from swift.data.rows.draft import Draft
from swift.data.rows.pairs import only_query

MARK = 'ки'
VERDICT = re.compile(r'(?<=\s)([+-])(?=\n|$)')


def fits_completions(draft: Draft) -> bool:
    return draft.has('completions') and bool(draft.present(('labels', 'label')))


def completions(draft: Draft) -> None:
    """A prompt, a list of steps, and a list of as many labels."""
    name = draft.present(('labels', 'label'))[0]
    steps = fields.array(draft.take('completions'), 'completions')
    labels = fields.array(draft.take(name), name)
    if not steps:
        raise RowError('missing answer: completions has no steps')
    if len(steps) != len(labels):
        raise RowError(f'{len(steps)} steps in completions, and {len(labels)} numbers in {name}: one for each step')
    query = only_query(draft)
    if query is None:
        raise RowError('missing prompt: completions are steps of an answer, and no column holds the question (prompt)')
    draft.messages = draft.turns(query, 'user')
    draft.steps = tuple(_step(each, f'completions[{i}]') for i, each in enumerate(steps))
    draft.row['label'] = [float(_judged(each, f'{name}[{i}]')) for i, each in enumerate(labels)]


def fits_marked(draft: Draft) -> bool:
    marked, judged = draft.row.get('input'), draft.row.get('label')
    return isinstance(marked, str) and isinstance(judged, str) and MARK in marked


def marked(draft: Draft) -> None:
    """Math-Shepherd: the text with marks, and the text with verdicts."""
    text = draft.take('input')
    *steps, rest = (each.strip() for each in text.split(MARK))
    verdicts = VERDICT.findall(draft.take('label'))
    if rest or len(verdicts) != len(steps):
        raise RowError(f'{len(steps)} marks ({MARK}) in input, and {len(verdicts)} verdicts (+ or -) in label')
    question, _, first = steps[0].partition('Step 1:')
    if not question.strip() or not first:
        raise RowError('missing prompt: input has no question before Step 1:')
    draft.row['query'] = question.strip()
    draft.messages = draft.turns('query', 'user')
    draft.steps = tuple(_step(each, 'input') for each in (f'Step 1:{first}', *steps[1:]))
    draft.row['label'] = [float(each == '+') for each in verdicts]


def _step(value: Any, what: str) -> str:
    text = fields.text(value, what)
    if not text.strip():
        raise RowError(f'missing content: {what} is empty')
    return text


def _judged(value: Any, what: str) -> float:
    number = fields.number(fields.truth(value), what)
    if not 0 <= number <= 1:
        raise RowError(f'{what} is {number}: a step is right (true, 1), wrong (false, 0) or something between')
    return number
