"""Whole conversations in one column: ``messages`` (OpenAI, Anthropic, ms-swift) and ``conversations`` (sharegpt)."""

from __future__ import annotations

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields
from swift.data.rows.draft import Draft

CONVERSATIONS = ('conversations', 'conversation')


def fits_messages(draft: Draft) -> bool:
    return 'messages' in draft.row


def messages(draft: Draft) -> None:
    _required(draft, 'messages')
    draft.messages = draft.read_messages('messages')


def fits_conversations(draft: Draft) -> bool:
    return any(name in draft.row for name in CONVERSATIONS)


def conversations(draft: Draft) -> None:
    name = next(name for name in CONVERSATIONS if name in draft.row)
    _required(draft, name)
    draft.messages = draft.read_messages(name)


def add_system(draft: Draft) -> None:
    """The column ``system`` becomes the first turn."""
    value = draft.take('system')
    if value in (None, '') or draft.text is not None:
        return
    if isinstance(value, list):  # Anthropic's text blocks
        value = ''.join(fields.text(fields.mapping(each, 'system').get('text'), 'system.text') for each in value)
    system = Message('system', fields.text(value, 'system'))
    for name in ('messages', 'rejected'):
        turns = getattr(draft, name)
        if turns and turns[0].role != 'system':
            setattr(draft, name, (system, *turns))
        elif turns and turns[0].content != system.content:
            raise RowError(f'two system prompts: the column system and the first of {name} differ. Keep one')


def _required(draft: Draft, name: str) -> None:
    if draft.row[name] is None:
        raise RowError(f'empty messages: {name} is null')
