"""Conversations written as one text, as in HH-RLHF: ``\\n\\nHuman: ...\\n\\nAssistant: ...``."""

from __future__ import annotations

import re
from typing import Any

from swift.core.errors import RowError
from swift.core.types import Message

TURN = re.compile(r'(?:^|\n\n)(Human|Assistant):')
ROLES = {'Human': 'user', 'Assistant': 'assistant'}


def is_transcript(value: Any) -> bool:
    """Whether a text begins as someone's turn and has a turn of the assistant."""
    if not isinstance(value, str):
        return False
    speakers = TURN.findall(value.lstrip())
    return speakers[:1] == ['Human'] and 'Assistant' in speakers and value.lstrip().startswith('Human:')


def transcript(value: str, what: str) -> tuple[Message, ...]:
    """The turns of a transcript, without the blanks around them. An assistant's turn at the end may be empty.

    Raises:
        RowError: naming a turn before it that is.
    """
    _, *parts = TURN.split(value.lstrip())
    turns = [Message(ROLES[who], text.strip()) for who, text in zip(parts[::2], parts[1::2], strict=True)]
    for i, turn in enumerate(turns[:-1]):
        if not turn.content:
            raise RowError(f'missing content: turn {i + 1} of {what} ({turn.role}) is empty')
    return tuple(turns)


def question(value: str, what: str) -> tuple[Message, ...]:
    """The turns of a transcript that stops where the assistant is to answer."""
    turns = transcript(value, what)
    return turns[:-1] if turns[-1].role == 'assistant' and not turns[-1].content else turns
