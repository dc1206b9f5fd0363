"""Preference rows: a conversation and a worse one, which begin alike.

``rejected_response`` (text or turns) replaces the last answer of a conversation; ``rejected_messages`` is a whole one,
which may leave the first at any answer. ``chosen`` and ``rejected`` are answers beside a prompt, or whole
conversations: lists of turns, or transcripts as in HH-RLHF. Two answers of which a column says the better are read too.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields, transcript
from swift.data.rows.draft import Draft, prompt_of
from swift.data.rows.messages import Media, conversation
from swift.data.rows.pairs import QUERY, fits_instruction, instruction, only_query

PAIRS = (('chosen', 'rejected'), ('chosen_response', 'rejected_response'), ('response_j', 'response_k'))
SPELT = re.compile(r'\s*\[\s*\{\s*["\'](role|from|content|value)["\']')
PROMPTS = ('messages', 'conversations', 'conversation', 'context')
SCORES = (
    ('score_chosen', 'score_rejected'),
    ('chosen_score', 'rejected_score'),
    ('chosen_rating', 'rejected_rating'),
    ('chosen-rating', 'rejected-rating'),
)


class Judged(NamedTuple):
    """Two answers, and the column that says which is better: 0 for ``first``, 1 for ``second``, or the reverse."""

    prompt: str
    first: str
    second: str
    verdict: str
    better: tuple[int, int]  # values of the verdict that favour first, second


JUDGED = (
    Judged('history', 'human_ref_A', 'human_ref_B', 'labels', (1, 0)),  # Stanford Human Preferences
    Judged('prompt', 'response_0', 'response_1', 'better_response_id', (0, 1)),  # PKU-SafeRLHF
)
ALIASES = frozenset(
    [*(name for pair in (*PAIRS, *SCORES) for name in pair), *(name for each in JUDGED for name in each[1:4])]
)


# ------------------------------------------------------------------------------------------------ chosen and rejected
def fits_chosen(draft: Draft) -> bool:
    return _pair(draft) is not None


def chosen(draft: Draft) -> None:
    """``chosen`` and ``rejected``: both answers to the row's prompt, or both whole conversations."""
    names = _pair(draft)
    assert names is not None
    if draft.row[names[1]] is None:
        raise RowError(f'missing content: {names[1]} is null')
    for name in names:
        if SPELT.match(value := draft.row[name] if isinstance(draft.row[name], str) else ''):  # csv
            draft.row[name] = fields.array(value, name)
    whole = [_is_whole(draft.row[name]) for name in names]
    if all(whole):
        draft.messages = _turns(draft, names[0], draft.media)
        draft.rejected = _turns(draft, names[1], draft.rejected_media)
        _forget_prompt(draft)
        return
    if any(whole):
        one, other = names if whole[0] else reversed(names)
        raise RowError(f'two forms: {one} is a whole conversation and {other} only an answer. Write both alike')
    prompt = _prompt(draft)
    if not prompt:
        raise RowError(
            f'missing prompt: {names[0]} and {names[1]} are answers, and no column holds their question '
            f'({", ".join((*QUERY, *PROMPTS))}). A whole conversation is a list of turns, or a text that begins with '
            'Human: and goes on with Assistant:'
        )
    draft.rejected_media = {name: list(values) for name, values in draft.media.items()}
    draft.messages = (*prompt, *_turns(draft, names[0], draft.media))
    draft.rejected = (*prompt, *_turns(draft, names[1], draft.rejected_media))


def _pair(draft: Draft) -> tuple[str, str] | None:
    """The columns of the better and the worse answer."""
    return next((each for each in PAIRS if draft.has(each[0]) and each[1] in draft.row), None)


def _is_whole(value: Any) -> bool:
    """Whether this is a conversation that begins with a question, not an answer alone."""
    if isinstance(value, str):
        return transcript.is_transcript(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return conversation(value[:1], 'turn', {})[0].role in ('user', 'system')


def _turns(draft: Draft, name: str, media: Media) -> tuple[Message, ...]:
    """An answer or a whole conversation."""
    if transcript.is_transcript(draft.row[name]):
        return transcript.transcript(draft.take(name), name)
    return draft.turns(name, 'assistant', media)


def _prompt(draft: Draft) -> tuple[Message, ...]:
    """The turns before both answers; none when no column holds them."""
    conversations = [name for name in PROMPTS if isinstance(draft.row.get(name), list | str) and draft.row[name]]
    if fits_instruction(draft):
        return (instruction(draft),)
    if name := only_query(draft):
        value = draft.row[name]
        if transcript.is_transcript(value):
            return transcript.question(draft.take(name), name)
        prompt = draft.turns(name, 'user')
    elif conversations:
        name = conversations[0]
        prompt = draft.turns(name, 'user')
    else:
        return ()
    if prompt[-1].role == 'assistant':
        raise RowError(f'two answers: {name} ends with an answer already, and there are chosen and rejected beside it')
    return prompt


def _forget_prompt(draft: Draft) -> None:
    """Drop what columns say that the conversations say too: the prompt, and the better conversation once more."""
    assert draft.rejected is not None
    said = {each.content.strip() for each in draft.messages}
    for name in draft.present(QUERY):
        value = draft.row[name]
        if isinstance(value, str) and (value.strip() in said or transcript.is_transcript(value)):
            draft.take(name)
    for name in draft.present((*QUERY, *PROMPTS)):
        if not isinstance(draft.row[name], list):
            continue
        turns = conversation(draft.row[name], name, {})
        if turns in (draft.messages, draft.rejected, draft.messages[: len(turns)]):
            draft.take(name)


# ---------------------------------------------------------------------------------------------------- judged answers
def fits_judged(draft: Draft) -> bool:
    return _judged(draft) is not None


def judged(draft: Draft) -> None:
    """Two answers and a verdict."""
    form = _judged(draft)
    assert form is not None
    verdict = fields.number(draft.take(form.verdict), form.verdict)
    if verdict not in form.better:
        raise RowError(f'unknown verdict: {form.verdict} is {verdict}, expected {form.better[0]} or {form.better[1]}')
    prompt = draft.turns(form.prompt, 'user')
    first, second = ((*prompt, *draft.turns(name, 'assistant')) for name in (form.first, form.second))
    draft.messages, draft.rejected = (first, second) if verdict == form.better[0] else (second, first)


def _judged(draft: Draft) -> Judged | None:
    return next((each for each in JUDGED if draft.has(*each[:4])), None)


# --------------------------------------------------------------------------------------------- beside a conversation
def add_rejected(draft: Draft) -> None:
    """``rejected_messages`` or ``rejected_response`` beside a conversation."""
    if draft.has('rejected_messages', 'rejected_response'):
        raise RowError('two rejected answers: rejected_messages and rejected_response. Keep one')
    if draft.has('rejected_messages'):
        draft.rejected = draft.read_messages('rejected_messages', draft.rejected_media)
    elif draft.has('rejected_response'):
        draft.rejected = _replaced(draft)


def _replaced(draft: Draft) -> tuple[Message, ...]:
    """The conversation with another last answer."""
    if not draft.messages:
        raise RowError('missing prompt: rejected_response needs messages, or a query and a response, beside it')
    answer = _turns(draft, 'rejected_response', draft.rejected_media)
    if answer[0].role in ('user', 'system'):
        return answer
    if any(each.role in ('user', 'system') for each in answer):
        raise RowError(
            'a question in rejected_response: it is one answer. Write a whole conversation: rejected_messages'
        )
    return (*prompt_of(draft.messages), *answer)


def margin(draft: Draft) -> float | None:
    """``margin``, or how much more the better answer scores."""
    value = draft.take('margin')
    if value is not None:
        return fields.number(value, 'margin')
    names = next((each for each in SCORES if draft.has(*each)), None)
    if names is None or draft.rejected is None:
        return None
    better, worse = (fields.number(draft.take(name), name) for name in names)
    return better - worse
