"""A row on its way to being a Sample: what is still unread of it, and what has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import RowError
from swift.core.types import Message
from swift.data.rows import fields
from swift.data.rows.messages import Media, conversation


@dataclass(slots=True)
class Draft:
    """``row`` loses each column as it is read; what is left at the end is ``extra``. Absent and null are the same."""

    row: dict[str, Any]
    messages: tuple[Message, ...] = ()
    text: str | None = None
    rejected: tuple[Message, ...] | None = None
    positives: tuple[tuple[Message, ...], ...] = ()
    negatives: tuple[tuple[Message, ...], ...] = ()
    steps: tuple[str, ...] = ()
    media: Media = field(default_factory=dict)
    rejected_media: Media = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether all these columns hold something."""
        return all(self.row.get(name) is not None for name in names)

    def present(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` whose columns hold something."""
        return [name for name in names if self.row.get(name) is not None]

    def take(self, name: str) -> Any:
        """A column's value, which is then read; None when there is none."""
        return self.row.pop(name, None)

    def read_messages(self, name: str, media: Media | None = None) -> tuple[Message, ...]:
        """A column that holds a conversation; its media go to the row's own unless told."""
        return conversation(self.take(name), name, self.media if media is None else media)

    def turns(self, name: str, role: str, media: Media | None = None) -> tuple[Message, ...]:
        """A column that holds one turn as text, or several as a list; media as for ``read_messages``."""
        value = self.take(name)
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, list):
            if any(isinstance(each, str) for each in value):
                raise RowError(
                    f'wrong type: {name} is a list of {len(value)} texts, expected one. Write one row for each, or '
                    'name the columns for what they hold: chosen and rejected, positive and negative'
                )
            return conversation(value, name, self.media if media is None else media)
        return (Message(role, fields.text(value, name)),)


def prompt_of(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns before the last answer, which may be several assistant and tool turns after the last question."""
    end = max((i + 1 for i, each in enumerate(messages) if each.role in ('user', 'system')), default=0)
    return tuple(messages[:end])
