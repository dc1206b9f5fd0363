"""Words that must neither be asked nor answered, and hooks for other rules, also across the pieces of a stream.

A rule opens a ``Watch`` for every text. A watch is given the text in pieces and gives back what may be shown now; what
may still become a forbidden word is held back until it is known. Input is one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from swift.core.errors import ConfigError
from swift.core.registry import Registry

LONGEST = 200  # characters of a word


class Verdict(NamedTuple):
    """Text that may be shown, and whether the rule was broken after it; then nothing more may follow."""

    text: str
    broken: bool = False


class Watch(Protocol):
    """Reads one text."""

    def push(self, text: str) -> Verdict:
        """Take the next piece."""
        ...

    def end(self) -> Verdict:
        """What was held back, when no more comes."""
        ...


Rule = Callable[[], Watch]
RULES: Registry[Rule] = Registry('moderation')
"""Rules of plug-ins by name: ``@RULES.register('mine')`` on a function without arguments that opens a Watch."""


class Words:
    """A rule: none of these words, whatever their case."""

    def __init__(self, words: Iterable[str]):
        kept = sorted({word.strip().lower() for word in words} - {''})
        self.count = len(kept)
        self._pattern = re.compile(_pattern(kept), re.IGNORECASE) if kept else None
        self._beginnings = {word[:n] for word in kept for n in range(1, len(word))}
        self._longest = max(map(len, kept), default=0)

    @classmethod
    def read(cls, path: Path) -> Words:
        """Words of a file, one a line; lines that begin with # are comments. Raises ConfigError."""
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f'--sensitive_words {path}: {error}') from None
        words = [line for line in lines if not line.startswith('#')]
        if long := [i for i, line in enumerate(lines, 1) if len(line) > LONGEST]:
            raise ConfigError(f'--sensitive_words {path}:{long[0]}: a word has at most {LONGEST} characters')
        return cls(words)

    def __call__(self) -> Watch:
        return _WordWatch(self)

    def find(self, text: str) -> int | None:
        """Where the first word begins."""
        found = self._pattern.search(text) if self._pattern else None
        return found.start() if found else None

    def unfinished(self, text: str) -> int:
        """Characters at the end that may be the beginning of a word."""
        lower = text[-self._longest :].lower() if self._longest else ''
        return next((n for n in range(len(lower), 0, -1) if lower[-n:] in self._beginnings), 0)


class _WordWatch:
    """Holds back what may become a word."""

    def __init__(self, words: Words):
        self._words, self._held = words, ''

    def push(self, text: str) -> Verdict:
        """Take the next piece."""
        text = self._held + text
        start = self._words.find(text)
        if start is not None:
            self._held = ''
            return Verdict(text[:start], True)
        keep = self._words.unfinished(text)
        self._held = text[len(text) - keep :]
        return Verdict(text[: len(text) - keep])

    def end(self) -> Verdict:
        """A beginning alone is no word."""
        text, self._held = self._held, ''
        return Verdict(text)


class Chain:
    """Several watches, one after the other: text must pass all of them."""

    def __init__(self, rules: Iterable[Rule]):
        self._watches = [rule() for rule in rules]

    def push(self, text: str) -> Verdict:
        """Take the next piece."""
        return self._through(text, ending=False)

    def end(self) -> Verdict:
        """What was held back."""
        return self._through('', ending=True)

    def _through(self, text: str, *, ending: bool) -> Verdict:
        for watch in self._watches:
            shown, broken = watch.push(text) if text else Verdict('')
            if ending and not broken:
                rest, broken = watch.end()
                shown += rest
            if broken:
                return Verdict(shown, True)
            text = shown
        return Verdict(text)


def passes(text: str, rules: Iterable[Rule]) -> bool:
    """Whether a whole text breaks no rule."""
    chain = Chain(rules)
    return not (chain.push(text).broken or chain.end().broken)


def _pattern(words: list[str]) -> str:
    """One expression for sorted words that share their beginnings, so that time does not grow with their number."""
    if not words:
        return ''
    if len(words) == 1:
        return re.escape(words[0])
    arms: list[str] = []
    first = 0
    while first < len(words):
        letter = words[first][:1]
        end = first
        while end < len(words) and words[end][:1] == letter:
            end += 1
        if not letter:  # a word ends here: any longer one begins with it
            return ''
        arms.append(re.escape(letter) + _pattern([word[1:] for word in words[first:end]]))
        first = end
    return f'(?:{"|".join(arms)})' if len(arms) > 1 else arms[0]
