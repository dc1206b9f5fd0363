"""Which characters of a text a token holds, told without ``tokenizers`` but as its Encoding tells it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np


class Spelling:
    """Offsets of byte-level tokenizers from the bytes that their tokens spell, which saves ``tokenizers`` the work.

    Nothing is taken on trust: if the bytes of the tokens are not those of the text (a normalizer changed it, a blank
    was put before it), there is no answer.
    """

    def __init__(self, backend: Any):
        self._bytes = _TokenBytes(backend)

    def __call__(self, ids: Sequence[int], text: str) -> ByteOffsets | None:
        """The offsets of ``ids``, or None if they do not spell ``text``."""
        pieces = self._pieces(ids)
        spelled = text.encode()
        if b''.join(pieces) != spelled:
            return None
        return ByteOffsets(map(len, pieces), spelled, ascii=len(spelled) == len(text))

    def ends(self, ids: Sequence[int], text: bytes) -> np.ndarray | None:
        """Bytes of ``text`` up to the end of each token, int64 [T], each more than the one before; None if the tokens
        do not spell it."""
        pieces = self._pieces(ids)
        if b''.join(pieces) != text or not all(pieces):
            return None
        return np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))

    def _pieces(self, ids: Sequence[int]) -> list[bytes]:
        return list(map(self._bytes.__getitem__, ids))


class _TokenBytes(dict):
    """id -> the bytes that a token spells, found when first asked for."""

    def __init__(self, backend: Any):
        super().__init__()
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()

    def __missing__(self, id: int) -> bytes:
        name = self._backend.id_to_token(id) or ''
        if id in self._added:
            spelled = name.encode()
        else:
            spelled = bytes(_BYTE_OF[char] for char in name) if all(char in _BYTE_OF for char in name) else b''
        self[id] = spelled
        return spelled


class ByteOffsets:
    """Characters of T tokens that lie end to end. ``sizes`` [T] are their bytes."""

    def __init__(self, sizes: Iterable[int], spelled: bytes, *, ascii: bool):
        self._ends = list(accumulate(sizes))  # [T]
        self._char = None  # [bytes] the character that a byte belongs to
        if not ascii:
            self._char = np.cumsum((np.frombuffer(spelled, dtype=np.uint8) & 0xC0) != 0x80) - 1

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """The characters of which the token holds a byte."""
        start, end = self._ends[token - 1] if token else 0, self._ends[token]
        if self._char is None:
            return start, end
        return int(self._char[start]), int(self._char[end - 1]) + 1

    def char_to_token(self, place: int) -> int:
        """The token with the first byte of a character."""
        return bisect_right(self._ends, place if self._char is None else int(np.searchsorted(self._char, place)))


class PartOffsets:
    """Offsets of a text that was encoded in parts."""

    def __init__(self, length: int):
        self.ids: list[int] = []
        self.offsets: list[tuple[int, int]] = []
        self._at: list[int | None] = [None] * length

    def extend(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> None:
        """Tokens of the next part, and their characters in the whole text."""
        for id, (start, end) in zip(ids, offsets, strict=True):
            for place in range(start, end):
                if self._at[place] is None:
                    self._at[place] = len(self.ids)
            self.ids.append(id)
            self.offsets.append((start, end))

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """The characters of a token."""
        return self.offsets[token]

    def char_to_token(self, place: int) -> int | None:
        """The first token that holds a character; None if none does."""
        return self._at[place]


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers write bytes: printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
