"""Embedding and reranker rows: an anchor with texts that belong to it and texts that do not.

``positive_messages`` and ``negative_messages`` are lists of conversations; ``query`` (or ``anchor``) with ``positive``
and ``negative`` holds texts, one or a list of each.
"""

from __future__ import annotations

from typing import Any

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields
from swift.data.rows.draft import Draft
from swift.data.rows.messages import conversation

ANCHOR = ('query', 'anchor', 'sentence1', 'question')
POSITIVE = ('positive', 'positives', 'pos', 'sentence2')
NEGATIVE = ('negative', 'negatives', 'neg')


def fits_texts(draft: Draft) -> bool:
    return bool(draft.present(ANCHOR)) and bool(draft.present(POSITIVE))


def texts(draft: Draft) -> None:
    """An anchor and lists of texts."""
    draft.messages = draft.turns(draft.present(ANCHOR)[0], 'user')
    draft.positives = _texts(draft, POSITIVE)
    draft.negatives = _texts(draft, NEGATIVE)


def add_messages(draft: Draft) -> None:
    """``positive_messages`` and ``negative_messages`` beside the anchor's messages."""
    draft.positives = draft.positives or _conversations(draft, 'positive_messages')
    draft.negatives = draft.negatives or _conversations(draft, 'negative_messages')


def _texts(draft: Draft, names: tuple[str, ...]) -> tuple[tuple[Message, ...], ...]:
    present = draft.present(names)
    if not present:
        return ()
    value: Any = draft.take(present[0])
    if isinstance(value, str) and not value.lstrip().startswith('['):
        value = [value]
    values = fields.array(value, present[0])
    return tuple((Message('user', fields.text(each, f'{present[0]}[{i}]')),) for i, each in enumerate(values))


def _conversations(draft: Draft, name: str) -> tuple[tuple[Message, ...], ...]:
    value = draft.take(name)
    if value is None:
        return ()
    values = fields.array(value, name)
    if values and all(isinstance(each, dict) for each in values):
        raise RowError(f'wrong type: {name} is a list of turns, expected a list of conversations ([[...]])')
    return tuple(conversation(each, f'{name}[{i}]', draft.media) for i, each in enumerate(values))
