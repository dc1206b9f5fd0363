"""Reasoning out of an answer, while it streams."""

from __future__ import annotations

from collections.abc import Sequence

from swift.templates.feed import Feed, Put, Reading

Tags = Sequence[tuple[str, str]]


class Stripped:
    """Passes text on without the blanks at its beginning and at its end."""

    def __init__(self, put: Put):
        self._put = put
        self._held, self._begun = '', False

    def content(self, text: str) -> None:
        """More text."""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        kept = text.rstrip()
        self._begun = self._begun or bool(kept)
        self._held = text[len(kept) :] if self._begun else ''
        if kept:
            self._put(kept)


def read(feed: Feed, put: Put, tags: Tags, *, opened: str = '') -> Reading[None]:
    """Pass over the reasoning at the beginning of an answer, if there is any.

    Args:
        put: gets the reasoning, without the blanks around it.
        tags: what opens and closes reasoning.
        opened: the opening tag, if the prompt ended with it.
    """
    closing = dict(tags)
    if not opened:
        yield from feed.blanks()
        opened = yield from feed.skip(*closing)
        if not opened:
            feed.at = 0
            return
    yield from feed.skip(opened)  # said again, by a model whose prompt ended with it
    yield from feed.until((closing[opened].strip(),), Stripped(put).content)
    while (yield from feed.skip('\n', '\r')):
        pass
