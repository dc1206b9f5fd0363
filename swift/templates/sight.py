"""Pictures in prompts: where the template writes their token, the text stands that the model's processor gives them.

Only what the template writes counts: the same token in what somebody says stays text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from swift.core.errors import RequestError, RowError
from swift.core.types import PICTURE, Eye, Message
from swift.templates.tokens import Said


def check(messages: Sequence[Message], pictures: Sequence[bytes]) -> None:
    """Refuse places without pictures, pictures without places, and pictures that an answer shows. Raises RowError."""
    places = sum(len(message.pictures) for message in messages)
    if places != len(pictures):
        raise RowError(f'the messages have places for {places} pictures, and {len(pictures)} are given')
    for message in messages:
        if message.pictures and message.role == 'assistant':
            raise RowError('a picture stands in an answer; models are shown pictures, they do not give any')
        if not all(message.content.startswith(PICTURE, place) for place in message.pictures):
            raise RowError('pictures cannot stand in a message that --agent_template words anew')


def expanded(text: str, said: Sequence[Said], eye: Eye | None, pictures: Sequence[bytes]) -> tuple[str, list[Said]]:
    """The text with what stands for each picture, and who says what in it.

    Raises:
        RequestError: the model cannot take the pictures.
        RowError: the template does not show each of them once.
    """
    if eye is None:
        raise RequestError('the model takes text alone; send no pictures', param='messages')
    words = eye.words(pictures)
    spans = [(part.start, part.end) for part in said]
    found = [place.start() for place in re.finditer(re.escape(eye.token), text)]
    places = [at for at in found if not any(start <= at < end for start, end in spans)]
    if len(places) != len(words):
        raise RowError(
            f'the chat template shows {len(places)} of {len(words)} pictures ({eye.token}); '
            'give --template the one that the model was trained with'
        )
    ends = [0, *(at + len(eye.token) for at in places)]
    between = [text[start:end] for start, end in zip(ends, [*places, len(text)], strict=True)]
    grown = [0, *accumulate(len(word) - len(eye.token) for word in words)]
    moved = [part._replace(start=part.start + by, end=part.end + by) for part in said
             for by in [grown[bisect_right(places, part.start)]]]  # fmt: skip
    whole = between[0] + ''.join(word + rest for word, rest in zip(words, between[1:], strict=True))
    return whole, moved
