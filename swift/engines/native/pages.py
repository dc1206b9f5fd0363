"""Pages of keys and values: who holds which, and which hold a prefix that another request may begin with.

A page that is full can be found by the tokens in it and the page before it; so equal beginnings are computed once.
Pages that nobody holds stay findable until their room is needed, the least recently used first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class Pages:
    """The books of ``count`` pages of ``size`` tokens. Not thread-safe."""

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self._holders = [0] * count
        self._free = list(range(count - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # findable, held by nobody; least recently used first
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}  # (what comes before, tokens) -> page
        self._keys: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._names: dict[int, int] = {}  # page -> name of its contents, never given twice
        self._roots: dict[Hashable, int] = {}
        self._next_name = 0

    @property
    def tokens(self) -> int:
        """Tokens that there is room for in all."""
        return self.count * self.size

    @property
    def held(self) -> int:
        """Pages that somebody holds."""
        return self.count - self.room

    @property
    def room(self) -> int:
        """Pages that can be taken."""
        return len(self._free) + len(self._idle)

    def take(self) -> int:
        """A page for its first holder. There must be room."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        self._holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more holder."""
        self._holders[page] += 1
        self._idle.pop(page, None)

    def drop(self, pages: Sequence[int]) -> None:
        """One holder less for each. Later pages of a sequence are forgotten before those they continue."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._keys:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    # ------------------------------------------------------------------------------------------------------ prefixes
    def root(self, kind: Hashable) -> int:
        """What the first page of a sequence continues: sequences of different kinds share nothing."""
        if kind not in self._roots:
            self._roots[kind] = self._name()
        return self._roots[kind]

    def find(self, root: int, ids: Sequence[int]) -> tuple[list[int], int]:
        """Hold the known pages that ``ids`` begin with. Returns them, and what a next page would continue."""
        found, before = [], root
        for start in range(0, len(ids) - self.size + 1, self.size):
            page = self._known.get((before, tuple(ids[start : start + self.size])))
            if page is None:
                break
            self.hold(page)
            found.append(page)
            before = self._names[page]
        return found, before

    def remember(self, before: int, ids: Sequence[int], page: int) -> int:
        """Let a full page be found. Returns what a next page would continue."""
        key = (before, tuple(ids))
        if key in self._known:  # somebody computed the same at the same time: theirs is found
            return self._names[self._known[key]]
        self._known[key], self._keys[page], self._names[page] = page, key, self._name()
        return self._names[page]

    def forget_all(self) -> None:
        """No page can be found any more: the weights have changed."""
        for page in list(self._keys):
            self._forget(page)
        self._free += self._idle
        self._idle.clear()
        self._roots.clear()

    def _forget(self, page: int) -> None:
        del self._known[self._keys.pop(page)]
        del self._names[page]

    def _name(self) -> int:
        self._next_name += 1
        return self._next_name
