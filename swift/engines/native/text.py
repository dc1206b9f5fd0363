"""Tokens become text as they come: characters of several tokens, and stop strings of several tokens.

``Detokenizer`` turns token ids into text that never has to be taken back; ``StopFinder`` holds back what may still
become a stop string. Both promise that the pieces, joined, are the text that decoding everything at once would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = '\ufffd'  # what decoders show for bytes that are no complete character
LONGEST_WINDOW = 64  # tokens; bytes that never become a character are given up after so many


class Detokenizer:
    """Decodes a growing list of tokens. ``decode`` turns ids into text; it is called on short windows only.

    A window starts with the tokens of the last complete piece, because decoders treat the first token of a text in
    their own way (SentencePiece drops its space).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._window: list[int] = []
        self._anchor = 0  # tokens of the window whose text is complete
        self._sent = 0  # characters of the window's text that were given out

    def push(self, token: int) -> str:
        """The text that is certain now, often empty."""
        self._window.append(token)
        text = self._decode(self._window)
        certain = text.rstrip(REPLACEMENT)
        complete = certain == text
        if not complete and len(self._window) - self._anchor > LONGEST_WINDOW:
            certain, complete = text, True
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        if complete and piece:
            self._window = self._window[self._anchor :]
            self._anchor = len(self._window)
            self._sent = len(self._decode(self._window))
        return piece

    def flush(self) -> str:
        """What is left when no more tokens come: bytes that stayed incomplete."""
        text = self._decode(self._window)[self._sent :]
        self._sent += len(text)
        return text


class StopFinder:
    """Finds the first of several strings in a text that comes in pieces, token by token.

    Args:
        after: Tokens at the beginning in whose text nothing is looked for.
    """

    def __init__(self, stops: Sequence[str], *, after: int = 0):
        self._stops = tuple(stop for stop in stops if stop)
        self._passed_over = after
        self._held = ''

    def push(self, piece: str) -> tuple[str, bool]:
        """Text that can be shown, and whether a stop string was found; text from the stop string on is dropped."""
        if not self._stops:
            return piece, False
        if self._passed_over:
            self._passed_over -= 1
            return piece, False
        text = self._held + piece
        found = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ''
            return text[: min(found)], True
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """What was held back for a stop string that did not come."""
        text, self._held = self._held, ''
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
