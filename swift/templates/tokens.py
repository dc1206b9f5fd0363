"""Text becomes token ids: the template's control tokens stay control tokens, and text of the row never becomes one.

A row without control strings is encoded in one go, exactly as the checkpoint's tokenizer encodes it. If the row says
``<|im_end|>``, only the stretch between two of the template's own control tokens that holds it is encoded again, by a
copy of the tokenizer that knows no added tokens; everything else keeps its ids.

A *control token* is an added token that is special, or looks like ``<|this|>``, or that the template writes itself
(``<tool_call>``). Answers may hold the non-special ones and the tags of thinking, since models write them; questions,
system prompts and tool results may not. Other added tokens (words, runs of blanks, HTML tags) are ordinary vocabulary.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from swift.core.errors import RowError, TemplateError
from swift.templates.offsets import PartOffsets, Spelling
from swift.templates.thinking import TAGS

_PIPED = re.compile(r'<[|｜].+[|｜]>')


class Control(NamedTuple):
    """A control token that the template wrote: its characters, blanks around it left out, and its id."""

    start: int
    end: int
    id: int


class Said(NamedTuple):
    """Characters that come from the row. ``answer`` is True for what an assistant says; ``lead`` and ``tail`` count
    edge characters that the template might have written just as well."""

    start: int
    end: int
    answer: bool
    lead: int = 0
    tail: int = 0


@dataclass(frozen=True)
class Tokens:
    """T token ids of a text, the characters of each, and the template's control tokens in order."""

    ids: np.ndarray  # [T] int32
    controls: tuple[Control, ...]
    encoding: Any  # a tokenizers.Encoding, or one of offsets.py that answers like it

    def within(self, start: int, end: int) -> tuple[int, int]:
        """Tokens ``[i, j)`` that hold any of the characters ``[start, end)``."""
        if start >= end:
            at = self._first(start)
            return at, at
        i, j = self._first(start), self._first(end)
        if j < len(self.ids) and self.encoding.token_to_chars(j)[0] < end:
            j += 1
        return i, max(i, j)

    def _first(self, place: int) -> int:
        """The first token that holds character ``place``, or the next character that any token holds."""
        while place < self.length:
            token = self.encoding.char_to_token(place)
            if token is not None:
                return token
            place += 1
        return len(self.ids)

    @cached_property
    def length(self) -> int:
        return self.encoding.token_to_chars(len(self.ids) - 1)[1] if len(self.ids) else 0


class Tokenizer:
    """The tokenizer of a checkpoint, for texts of which it is known who says what.

    Args:
        tokenizer: a transformers tokenizer with a Rust backend.
        written: all that the template can write by itself.
    """

    def __init__(self, tokenizer: Any, written: str = ''):
        backend = getattr(tokenizer, 'backend_tokenizer', None)
        if backend is None:
            raise TemplateError(
                f'{type(tokenizer).__name__} has no fast (Rust) form, so nothing can tell which characters a token '
                'holds; convert it to a tokenizer.json'
            )
        if backend.truncation or backend.padding:
            backend = type(backend).from_str(backend.to_str())
            backend.no_truncation()
            backend.no_padding()
        self._backend = backend
        self._spelling = Spelling(backend) if 'ByteLevel(' in repr(backend.pre_tokenizer) else None
        added = tokenizer.added_tokens_decoder
        size = 1 + max([backend.get_vocab_size(with_added_tokens=True), *added])
        self._added = np.zeros(size, dtype=bool)  # any added token
        self._never = np.zeros(size, dtype=bool)  # may not come out of a question
        self._never_answer = np.zeros(size, dtype=bool)  # may not come out of an answer
        tags = {tag for pair in TAGS for tag in pair}
        for id, token in added.items():
            piped = bool(_PIPED.fullmatch(token.content))
            self._added[id] = True
            self._never[id] = token.special or piped or (token.content in written and not token.content.isspace())
            self._never_answer[id] = (token.special or piped) and token.content not in tags
        self.names = {token.content: id for id, token in added.items()}
        self._sizes = sorted({len(name) for id, token in added.items() if self._never[id] and (name := token.content)})
        heads = {token.content[0] for id, token in added.items() if self._never[id] and token.content}
        self._heads = re.compile('[' + re.escape(''.join(sorted(heads))) + ']') if heads else re.compile('(?!)')

    def _spells(self, id: int, text: str) -> bool:
        """True if an added token stands for its own name; ``<unk>`` may stand for any character, a byte for a part."""
        name = self._backend.id_to_token(id)
        if text == name:
            return True
        normalizer = self._backend.normalizer
        return normalizer is not None and normalizer.normalize_str(text) == normalizer.normalize_str(name)

    def special(self, id: int) -> bool:
        """True for a token that no answer may hold as text."""
        return bool(self._never_answer[id])

    def suspicious(self, text: str) -> bool:
        """True if a control string occurs in ``text``."""
        for head in self._heads.finditer(text):
            at = head.start()
            for size in self._sizes:
                id = self.names.get(text[at : at + size])
                if id is not None and self._never[id]:
                    return True
        return False

    def without_controls(self, text: str) -> str:
        """``text``, all of it a template's, without its control tokens."""
        at, kept = 0, []
        for control in self(text).controls:
            kept.append(text[at : control.start])
            at = control.end
        return ''.join([*kept, text[at:]])

    def __call__(self, text: str, said: Sequence[Said] = (), spelled: Sequence[int] | None = None) -> Tokens:
        """Encode ``text``, whose characters ``said`` come from the row (in order).

        Args:
            spelled: its ids, if they are known and the tokenizer ``spells``.

        Raises:
            RowError: a control string of the row cannot be written without its control token.
        """
        ids, encoding = self._encode(text, spelled)
        controls, wrong = self._sort(text, encoding, ids, said)
        if not wrong:
            return Tokens(ids, tuple(controls), encoding)
        return self._in_parts(text, said, wrong)

    @property
    def spells(self) -> bool:
        """Whether ids tell the characters of their tokens: then the ids of many texts can be found at once."""
        return self._spelling is not None

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; other threads of Python run meanwhile, and ``TOKENIZERS_PARALLELISM`` is obeyed."""
        return [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def ends(self, ids: Sequence[int], text: str) -> np.ndarray | None:
        """Bytes of ``text`` up to the end of each of its tokens, int64 [T]; None if only ``tokenizers`` can tell."""
        return None if self._spelling is None else self._spelling.ends(ids, text.encode())

    def added(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of those tokens that are added tokens."""
        return np.flatnonzero(self._added[ids])

    def _encode(self, text: str, ids: Sequence[int] | None) -> tuple[np.ndarray, Any]:
        """Ids, and what tells their characters: by the bytes of the tokens if they spell the text, else as encoded."""
        if self._spelling is not None:
            ids = self.ids([text])[0] if ids is None else ids
            offsets = self._spelling(ids, text)
            if offsets is not None:
                return np.array(ids, dtype=np.int32), offsets
        encoding = self._backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32), encoding

    def _sort(
        self, text: str, encoding: Any, ids: np.ndarray, said: Sequence[Said]
    ) -> tuple[list[Control], list[tuple[int, int]]]:
        """Control tokens that the template wrote, and the characters of those that came out of the row."""
        controls: list[Control] = []
        wrong: list[tuple[int, int]] = []
        starts = [part.start for part in said]
        for token in self.added(ids).tolist():
            id = int(ids[token])
            start, end = _core(text, *encoding.token_to_chars(token))
            if start >= end or not self._spells(id, text[start:end]):
                continue
            number = bisect_right(starts, end - 1) - 1
            part = said[number] if number >= 0 and said[number].end > start else None
            if part is None:
                controls.append(Control(start, end, id))
            elif (self._never_answer if part.answer else self._never)[id]:
                if start < part.start + part.lead or end > part.end - part.tail:
                    raise RowError(
                        f'cannot prove whether the row or the chat template says {text[start:end]!r}: the template '
                        'looks for it in the text'
                    )
                wrong.append((max(start, part.start), min(end, part.end)))
        return controls, wrong

    # ---------------------------------------------------------------------------------- rows with control strings
    def _in_parts(self, text: str, said: Sequence[Said], wrong: list[tuple[int, int]]) -> Tokens:
        """Encode with the characters ``wrong`` as plain text."""
        masked, found = text, list(wrong)
        while wrong:
            for start, end in wrong:
                masked = masked[:start] + 'x' * (end - start) + masked[end:]
            encoding = self._backend.encode(masked, add_special_tokens=False)
            ids = np.array(encoding.ids, dtype=np.int32)
            controls, wrong = self._sort(masked, encoding, ids, said)
            found += wrong
        parts, all_ids, offsets = PartOffsets(len(text)), encoding.ids, encoding.offsets
        for start, end, tokens in _stretches(self._added[ids], offsets, len(text)):
            if any(start < b and a < end for a, b in found):
                plain = self._plain(start).encode(text[start:end], add_special_tokens=False)
                self._check(plain, text[start:end])
                parts.extend(plain.ids, [(a + start, b + start) for a, b in plain.offsets])
            else:
                parts.extend(all_ids[tokens], offsets[tokens])
        return Tokens(np.array(parts.ids, dtype=np.int32), tuple(controls), parts)

    def _check(self, plain: Any, text: str) -> None:
        for id, (start, end) in zip(plain.ids, plain.offsets, strict=True):
            if self._never[id] and self._spells(id, text[start:end].strip()):
                raise RowError(
                    f'the row says {text[start:end]!r}, which this tokenizer cannot write without its control token; '
                    'change the row'
                )

    def _plain(self, start: int) -> Any:
        """A tokenizer without added tokens, for a stretch that begins at ``start``."""
        return self._plain_first if start == 0 else self._plain_next

    @cached_property
    def _plain_first(self) -> Any:
        return self._copy(first=True)

    @cached_property
    def _plain_next(self) -> Any:
        return self._copy(first=False)

    def _copy(self, *, first: bool) -> Any:
        spec = json.loads(self._backend.to_str())
        spec.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        if not first:
            _no_first_blank(spec.get('pre_tokenizer'))
        return type(self._backend).from_str(json.dumps(spec))


def _stretches(added: np.ndarray, offsets: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int, slice]]:
    """Characters and tokens of each added token and of each stretch of text between two of them."""
    at = first = 0
    for token in np.flatnonzero(added).tolist():
        start, end = offsets[token]
        if at < start or first < token:
            yield at, start, slice(first, token)
        yield start, end, slice(token, token + 1)
        at, first = end, token + 1
    if at < length or first < len(offsets):
        yield at, length, slice(first, len(offsets))


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a token without the blanks that it took in from its sides."""
    word = text[start:end]
    return start + len(word) - len(word.lstrip()), end - len(word) + len(word.rstrip())


def _no_first_blank(spec: dict | None) -> None:
    """A stretch in the middle of a text does not get the blank that SentencePiece puts before the first word."""
    if spec is None:
        return
    for part in spec.get('pretokenizers', [spec]):
        if part.get('type') == 'Metaspace' and part.get('prepend_scheme') == 'first':
            part['prepend_scheme'] = 'never'
