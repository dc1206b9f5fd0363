"""Rows of a shape that was read before: tokens with weights from the shape's layout, without finding the turns again.

The first row of a shape (see ``outline.py``) is traced, tokenised and searched for turns like any other. What was found
lies in the template's words, at places that do not depend on what the messages say: a turn begins with its message and
ends with the ``<|im_end|>`` behind it. A later row of the shape takes these places over if, and only if, its text is
the outline's words with its own messages between them, its tokens spell that text, and they hold exactly the control
tokens of the first row at exactly their places. Otherwise it goes the long way.

Letters: P places, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from swift.templates.outline import Outline, place
from swift.templates.tokens import Tokens
from swift.templates.trace import Trace
from swift.templates.turns import Turn

Span = tuple[int, int]  # from place to place, by their numbers


@dataclass(frozen=True, slots=True)
class Spans:
    """Where things of one turn lie. ``whole`` is the answer with its stop, ``weighed`` what of it is learnt."""

    message: int
    whole: Span
    answer: Span
    weighed: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """What all rows of a shape have in common. ``pieces`` are the messages in the order in which they are shown."""

    outline: Outline
    words: np.ndarray  # [W] bytes of each of the outline's words
    part: np.ndarray  # [P] the number of the words in which a place lies
    offset: np.ndarray  # [P] bytes from the beginning of these words
    pieces: tuple[tuple[int, Span], ...]
    turns: tuple[Spans, ...]
    added: np.ndarray  # ids of all added tokens
    edges: np.ndarray  # [2, added] places where they begin and end

    def match(self, contents: Sequence[str], ids: np.ndarray, ends: np.ndarray, added: np.ndarray) -> Match | None:
        """Where the places are in a row of T tokens; None if its added tokens are not those of the layout.

        Args:
            contents: what the row's messages say, as shown.
            ends: bytes up to the end of each token, int64 [T].
            added: numbers of the added tokens.
        """
        sizes = [len(each) if each.isascii() else len(each.encode()) for each in contents]
        before = np.zeros(len(self.words), np.int64)  # [W] bytes before each of the words
        np.cumsum(self.words[:-1] + np.array(sizes, np.int64), out=before[1:])
        places = before[self.part] + self.offset  # [P]
        starts = np.concatenate(([0], ends[:-1]))
        if len(added) != len(self.added) or (ids[added] != self.added).any():
            return None
        if (starts[added] != places[self.edges[0]]).any() or (ends[added] != places[self.edges[1]]).any():
            return None
        first, last = np.searchsorted(ends, places, 'right'), np.searchsorted(starts, places, 'left')
        return Match(places, first.tolist(), last.tolist())


@dataclass(frozen=True, slots=True)
class Match:
    """The places of a layout in one row: ``first`` [P] are the tokens that hold the byte at a place, ``last`` [P] the
    first tokens that begin there or behind it."""

    places: np.ndarray
    first: list[int]
    last: list[int]

    def tokens(self, span: Span) -> slice:
        """The tokens that hold something of a span, as ``Tokens.within``."""
        start, end = span
        return slice(self.first[start], max(self.first[start], self.last[end]) if start != end else self.first[start])

    def bytes(self, span: Span) -> slice:
        """The bytes of a span."""
        return slice(int(self.places[span[0]]), int(self.places[span[1]]))


def lay_out(
    outline: Outline, trace: Trace, tokens: Tokens, added: Sequence[int], turns: Sequence[Turn], *, by_blocks: bool
) -> Layout | None:
    """The layout of a row of ``outline``; None if an edge of something lies inside a message.

    Args:
        added: numbers of the added tokens.
        by_blocks: only what is in ``{% generation %}`` blocks is learnt.
    """
    numbers: dict[tuple[int, int], int] = {}
    starts = [0, *(piece.end for piece in trace.pieces)]

    def span(start: int, end: int) -> Span:
        found = [place(at, starts, outline.words) for at in (start, end)]
        if None in found:
            raise _Inside
        first, last = (numbers.setdefault(each, len(numbers)) for each in found if each is not None)
        return first, last

    try:
        pieces = tuple((number, span(p.start, p.end)) for number, p in zip(outline.order, trace.pieces, strict=True))
        spans = tuple(_spans(turn, trace.blocks if by_blocks else None, span) for turn in turns)
        edges = [span(*tokens.encoding.token_to_chars(token)) for token in added]
    except _Inside:
        return None
    return Layout(
        outline,
        np.array([len(words.encode()) for words in outline.words], np.int64),
        np.array([part for part, _ in numbers], np.int64),
        np.array([len(outline.words[part][:size].encode()) for part, size in numbers], np.int64),
        pieces,
        spans,
        tokens.ids[added],
        np.array(edges, np.int64).reshape(-1, 2).T,
    )


class _Inside(Exception):
    """An edge lies inside a message, where it depends on what the message says."""


def _spans(turn: Turn, blocks: Sequence[tuple[int, int]] | None, span: Callable[[int, int], Span]) -> Spans:
    last = turn.stop[1] if turn.stop else turn.end
    weighed = [span(start, end) for start, end in turn.parts(blocks)]
    if weighed and turn.stop:
        weighed.append(span(turn.end, last))
    return Spans(turn.message, span(turn.start, last), span(turn.start, turn.end), tuple(weighed))
