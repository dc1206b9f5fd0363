"""Preference rows: a conversation and a worse one that shares its prompt.

``rejected_response`` (text or turns) replaces the last answer; ``rejected_messages`` is a whole conversation;
``chosen`` and ``rejected`` are answers beside a prompt, or two whole conversations.
"""

from __future__ import annotations

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows.draft import Draft, prompt_of
from swift.data.rows.pairs import QUERY


def fits_chosen(draft: Draft) -> bool:
    return draft.has('chosen') and 'rejected' in draft.row


def chosen(draft: Draft) -> None:
    """``chosen`` and ``rejected``, each with its own prompt or with the row's."""
    prompt: tuple[Message, ...] = ()
    names = draft.present((*QUERY, 'messages', 'conversations'))
    if names:
        name = names[0]
        prompt = draft.turns(name, 'user')
    if draft.row['rejected'] is None:
        raise RowError('missing content: rejected is null')
    draft.messages = _whole(draft, 'chosen', prompt)
    draft.rejected = _whole(draft, 'rejected', prompt)


def _whole(draft: Draft, name: str, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    answer = draft.turns(name, 'assistant')
    if answer[0].role in ('user', 'system'):
        return answer
    if not prompt:
        raise RowError(f'missing prompt: {name} is an answer, and no column holds its question ({", ".join(QUERY)})')
    return (*prompt, *answer)


def add_rejected(draft: Draft) -> None:
    """``rejected_messages`` or ``rejected_response`` beside a conversation."""
    if draft.has('rejected_messages'):
        draft.rejected = draft.read_messages('rejected_messages')
    elif draft.has('rejected_response'):
        if not draft.messages:
            raise RowError('missing prompt: rejected_response needs messages, or a query and a response, beside it')
        answer = draft.turns('rejected_response', 'assistant')
        whole = answer[0].role in ('user', 'system')
        draft.rejected = answer if whole else (*prompt_of(draft.messages), *answer)
