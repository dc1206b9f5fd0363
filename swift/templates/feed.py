"""Text that comes in pieces, read as if it were all there.

Readers are generators over a Feed: they yield while what they need to decide has not come yet. As they never see where
one piece ends and the next begins, what they find is the same for every way of cutting the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

T = TypeVar('T')
Reading = Generator[None, None, T]
Put = Callable[[str], None]
_BLANK = re.compile(r'\s*')
_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["\'{}\[\]]')


class Feed:
    """The text from ``at`` on is unread; what is before it stays until ``drop``, so that a reader can go back."""

    def __init__(self) -> None:
        self.text = ''
        self.at = 0
        self.ended = False

    def add(self, piece: str) -> None:
        """More text has come."""
        self.text += piece

    def drop(self) -> None:
        """Forget what was read."""
        self.text, self.at = self.text[self.at :], 0

    def _more(self, size: int) -> Reading[bool]:
        """Wait until there are more than ``size`` characters. False: the text ends."""
        while len(self.text) <= size and not self.ended:
            yield
        return len(self.text) > size

    def blanks(self) -> Reading[None]:
        """Pass over blanks."""
        while True:
            found = _BLANK.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or not (yield from self._more(self.at)):
                return

    def peek(self, words: Sequence[str]) -> Reading[str]:
        """The longest of ``words`` that the text goes on with, or ''."""
        while True:
            rest = self.text[self.at : self.at + max(map(len, words), default=0)]
            if not any(word.startswith(rest) and len(word) > len(rest) for word in words):
                break
            if not (yield from self._more(len(self.text))):
                break
        return max((word for word in words if word and self.text.startswith(word, self.at)), key=len, default='')

    def skip(self, *words: str) -> Reading[str]:
        """Pass over the longest of ``words`` that the text goes on with; ''  if there is none."""
        word = yield from self.peek(words)
        self.at += len(word)
        return word

    def until(self, words: Sequence[str], put: Put) -> Reading[str]:
        """Pass on the text before the first of ``words``, as soon as it is certain, and pass over the word.

        Returns the word; '' where the text ends without one.
        """
        pattern = re.compile(
            '|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word) or '(?!)'
        )
        while True:
            found = pattern.search(self.text, self.at)
            maybe = len(self.text) if self.ended else self._begun(words)
            if found and found.start() < maybe:
                put(self.text[self.at : found.start()])
                self.at = found.end()
                return found.group()
            put(self.text[self.at : maybe])
            self.at = maybe
            if not (yield from self._more(len(self.text))):
                put(self.text[self.at :])
                self.at = len(self.text)
                return ''

    def _begun(self, words: Sequence[str]) -> int:
        """Where an end of the text begins that may grow into one of ``words``, a longer one included."""
        longest = max(map(len, words), default=1)
        for start in range(max(self.at, len(self.text) - longest + 1), len(self.text)):
            rest = self.text[start:]
            if any(word.startswith(rest) and len(word) > len(rest) for word in words):
                return start
        return len(self.text)

    def short(self, words: Sequence[str], limit: int) -> Reading[tuple[str, str] | None]:
        """The text before the first of ``words`` and that word; None if it does not come within ``limit``."""
        said: list[str] = []
        began, reading = self.at, self.until(words, said.append)
        while True:
            try:
                next(reading)
            except StopIteration as stop:
                text = ''.join(said)
                return (text, stop.value) if stop.value and len(text) <= limit else None
            if self.at - began > limit:
                return None
            yield

    # ------------------------------------------------------------------------------------------------------- JSON
    def string(self) -> Reading[str | None]:
        """The value of a JSON string; None if there is none, or it does not end."""
        if not (yield from self.peek(('"',))):
            return None
        began, scan = self.at, self.at + 1
        while True:
            found = _IN_STRING.search(self.text, scan)
            if found is None or (found.group() == '\\' and found.end() >= len(self.text)):
                if not (yield from self._more(len(self.text))):
                    return None
                continue
            scan = found.end()
            if found.group() == '\\':
                scan += 1
                continue
            try:
                value = json.loads(self.text[began:scan], strict=False)
            except ValueError:
                return None
            self.at = scan
            return value

    def brackets(self, put: Put) -> Reading[bool]:
        """Pass on, as it comes, the text of something in brackets up to where they are balanced.

        Strings in double or single quotes may hold any brackets. False: the text ends before.
        """
        depth, quote = 0, ''
        while True:
            found = self._next_mark(quote)
            if found is None:
                put(self.text[self.at :])
                self.at = len(self.text)
                if not (yield from self._more(self.at)):
                    return False
                continue
            mark = found.group()
            end = found.end() + (mark == '\\')
            if end > len(self.text) and (yield from self._more(len(self.text))):
                continue
            put(self.text[self.at : end])
            self.at = min(end, len(self.text))
            if mark in '"\'':
                quote = '' if quote else mark
            elif mark != '\\':
                depth += 1 if mark in '{[' else -1
                if depth <= 0:
                    return True

    def _next_mark(self, quote: str) -> re.Match[str] | None:
        if not quote:
            return _OUTSIDE.search(self.text, self.at)
        return re.compile(rf'[{quote}\\]').search(self.text, self.at)


def run(reading: Reading[Any]) -> bool:
    """Let a reader go on with what has come. False: it has ended."""
    try:
        next(reading)
    except StopIteration:
        return False
    return True
