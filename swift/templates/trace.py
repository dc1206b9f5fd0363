"""Where every character of a rendered conversation comes from: the row, or the template. Proven, row by row.

A template may trim, split, reorder, wrap or drop what a row says, so looking for an answer in the text proves nothing:
the same words may stand in a question or in the template itself. Instead the conversation is rendered twice: once as
it is, and once with every character of the row replaced by a *code*, a private character that stands for exactly one
position of one field. White space becomes rare white space, so that trimming still trims. Reading the second rendering
gives a claim: this stretch is characters 3 to 40 of that answer, this one is the template's. Putting the row's
characters back must give the first rendering, character by character. If it does, the claim is the only one that the
template's behaviour allows; if it does not, the template looks into the text (for ``</think>``, say), and the codes
leave more of it readable until both renderings agree. If they never do, the row is refused.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from swift.core.errors import RowError
from swift.templates.jinja import CLOSE, FIRST_CODE, LAST_CODE, OPEN, STAND_INS, Renderer

# A name may be shown again later (beside a tool's result), an id or a schema anywhere.
Kind = Literal['content', 'reasoning', 'call', 'name', 'other']

_BLANKS = ''.join(STAND_INS)
SPACES = ''.join(STAND_INS.values())
_LAST_SPACE = 0x3000
# What becomes of white space, by code point; 0 for all that is none.
_SPACES_KEPT = np.array([point if chr(point).isspace() else 0 for point in range(_LAST_SPACE + 2)], dtype='<u4')
_SPACES_CODED = _SPACES_KEPT.copy()
_SPACES_CODED[[ord(space) for space in STAND_INS]] = [ord(code) for code in SPACES]
_BACK = {ord(code): space for space, code in STAND_INS.items()}
# Which characters of a text stay readable white space, by the word of a rung.
_SPACES_READABLE: dict[str, Callable[[str], slice]] = {
    'none': lambda text: slice(0, 0),
    'leading': lambda text: slice(0, len(text) - len(text.lstrip())),
    'trailing': lambda text: slice(len(text.rstrip()), None),
    'all': lambda text: slice(None),
}
_CODES = f'\\U{FIRST_CODE:08x}-\\U{LAST_CODE:08x}'
_DATA = re.compile(f'[{_CODES}{SPACES}]+')
_CODE = re.compile(f'[{_CODES}]')
STAND_IN = re.compile(f'[{SPACES}]')
_MARK = re.compile(f'[{OPEN}{CLOSE}]')


@dataclass(frozen=True, slots=True)
class Field:
    """One string of the row: the content of message 2, an argument of its tool call. ``message`` -1 is no message."""

    message: int
    kind: Kind
    text: str
    coded: str
    base: int


@dataclass(frozen=True, slots=True)
class Piece:
    """``text[start:end]`` is what became of ``field.text[first:last]``.

    ``field`` None: white space of the row that no neighbour assigns to a field. ``lead`` and ``tail`` count characters
    at the edges that had to stay readable: the row says them there, and the template might have said the same.
    """

    start: int
    end: int
    field: Field | None
    first: int = 0
    last: int = 0
    lead: int = 0
    tail: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """A rendering whose origin is proven. Between the pieces, the template speaks.

    ``pieces`` are in order and do not overlap. ``blocks`` are the ``{% generation %}`` blocks in characters of
    ``text``, None if the template has none. ``coded`` gives the renderer's arguments with the row's strings as codes.
    """

    text: str
    pieces: tuple[Piece, ...]
    blocks: tuple[tuple[int, int], ...] | None
    coded: Callable[[], Mapping[str, Any]]

    def of(self, message: int) -> list[Piece]:
        """The pieces of one message, without ids; a name counts where it is shown first."""
        own, names = [], set()
        for piece in self.pieces:
            field = piece.field
            if field is None or field.message != message or field.kind == 'other' or field.base in names:
                continue
            if field.kind == 'name':
                names.add(field.base)
            own.append(piece)
        return own


# A conversation as a function of how its strings are written: put(text, message, kind) -> text.
Put = Callable[[str, int, Kind], str]


@dataclass(frozen=True, slots=True)
class Rung:
    """How much of the row stays readable in the second rendering: the words ``keep``, and the white space that
    ``spaces`` names; in answers only, or everywhere."""

    keep: frozenset[str] = frozenset()
    spaces: Literal['none', 'leading', 'trailing', 'all'] = 'none'
    answers_only: bool = True


class Coder:
    """A ``Put`` that writes codes, and remembers which code stands for what.

    ``answers`` are the numbers of the assistant's messages; ``native``: the row itself has a stand-in for white space,
    so that white space stays as it is.
    """

    def __init__(self, rung: Rung, answers: frozenset[int] = frozenset(), *, native: bool = False):
        self.fields: list[Field] = []
        self._bases: list[int] = []
        self._next = FIRST_CODE
        self._keep = re.compile('|'.join(map(re.escape, sorted(rung.keep, key=len, reverse=True))) or '(?!)')
        self._rung, self._answers, self._native = rung, answers, native
        self._same: dict[str, str] = {}

    def __call__(self, text: str, message: int, kind: Kind) -> str:
        if not text:
            return text
        if kind == 'other' and text in self._same:  # an id stays equal to itself
            return self._same[text]
        if self._next + len(text) > LAST_CODE:
            raise RowError(
                f'the conversation has more than {LAST_CODE - FIRST_CODE} characters; split it into shorter rows'
            )
        field = Field(message, kind, text, self._code(text, message), self._next)
        self.fields.append(field)
        self._bases.append(self._next)
        self._next += len(text)
        if kind == 'other':
            self._same[text] = field.coded
        return field.coded

    def _code(self, text: str, message: int) -> str:
        try:
            points = np.frombuffer(text.encode('utf-32-le'), dtype='<u4')
        except UnicodeEncodeError as error:
            raise RowError(f'the text has half a character (lone surrogate) at position {error.start}') from error
        coded = np.arange(self._next, self._next + len(points), dtype='<u4')
        readable = not self._rung.answers_only or message in self._answers
        points_of_space = np.minimum(points, _LAST_SPACE + 1)
        kept = slice(None) if self._native else _SPACES_READABLE[self._rung.spaces](text) if readable else slice(0, 0)
        space = _SPACES_CODED[points_of_space]
        space[kept] = _SPACES_KEPT[points_of_space[kept]]
        coded = np.where(space > 0, space, coded)
        for word in self._keep.finditer(text) if readable else ():
            coded[word.start() : word.end()] = points[word.start() : word.end()]
        return coded.tobytes().decode('utf-32-le')

    def locate(self, code: int) -> tuple[Field, int] | None:
        """The field and position that a code stands for; None if it was never given out."""
        if not FIRST_CODE <= code < self._next:
            return None
        field = self.fields[bisect_right(self._bases, code) - 1]
        return field, code - field.base


class Tracer:
    """Traces the conversations of one template. What it says of a row depends on no other row."""

    def __init__(self, renderer: Renderer):
        self.renderer = renderer
        source = renderer.source
        words = frozenset(word for word in source.tests if not word.isspace())
        every = words | {word for word in source.literals if len(word) > 1 and not word.isspace()}
        self.rungs = (
            Rung(),
            Rung(words),
            Rung(words, 'leading'),
            Rung(words, 'trailing'),
            Rung(words, 'all'),
            Rung(words, answers_only=False),
            Rung(words, 'all', answers_only=False),
            Rung(every, 'all', answers_only=False),
        )
        self.words = words
        self._habits: frozenset[str] = frozenset()
        self._first = 0

    def begin_like(self, write: Callable[[Put], dict[str, Any]], text: str) -> None:
        """For rows with the same words that the template looks for, begin with the rung that proves this one."""
        strings, answers = _strings(write)
        for number, rung in enumerate(self.rungs):
            if self._try(write, text, Coder(rung, answers), prompt=False):
                self._habits = frozenset(word for word in self.words if any(word in string for string in strings))
                self._first = number
                return

    def __call__(self, write: Callable[[Put], dict[str, Any]], text: str, *, prompt: bool = False) -> Trace:
        """Prove where ``text`` comes from.

        Args:
            write: gives the renderer's arguments for a way of writing the row's strings.
            text: what the renderer makes of the row as it is.
            prompt: the text ends with a generation prompt.

        Raises:
            RowError: no rung gives a coded rendering that agrees with ``text``.
        """
        strings, answers = _strings(write)
        native = any(map(STAND_IN.search, strings))
        alike = self._habits and all(any(word in string for string in strings) for word in self._habits)
        start = self._first if alike else 0
        for rung in (*self.rungs[start:], *self.rungs[:start]):
            traced = self._try(write, text, Coder(rung, answers, native=native), prompt=prompt)
            if traced:
                return traced
        raise RowError(
            'cannot prove which part of the rendering is the answer: the chat template changes the text of messages '
            'in a way that depends on the text'
        )

    def _try(self, write: Callable[[Put], dict[str, Any]], text: str, coder: Coder, *, prompt: bool) -> Trace | None:
        arguments = write(coder)
        try:
            coded = self.renderer(**arguments, prompt=prompt, coded=True)
        except RowError:
            return None
        coded, marks = _take_marks(coded)
        claims = _widen(_join(_claims(coded, coder), coded), coded)
        pieces = _replay(coded, claims, text)
        if pieces is None:
            return None
        blocks = _blocks(marks, claims, pieces) if self.renderer.source.marks_generation else None
        return Trace(text, tuple(pieces), blocks, lambda: arguments)


def _strings(write: Callable[[Put], dict[str, Any]]) -> tuple[list[str], frozenset[int]]:
    """The strings of a row, and the numbers of the assistant's messages."""
    strings: list[str] = []
    messages = write(lambda string, message, kind: strings.append(string) or string)['messages']
    return strings, frozenset(number for number, message in enumerate(messages) if message['role'] == 'assistant')


def gap_after_data(coded: str) -> str:
    """What a coded rendering says after the last character of the row."""
    last = 0
    for run in _DATA.finditer(coded):
        last = run.end()
    return _MARK.sub('', coded[last:])


def common(a: str, b: str) -> int:
    """How many characters ``a`` and ``b`` have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# ------------------------------------------------------------------------------------------------------- reading
def _claims(coded: str, coder: Coder) -> Iterator[Piece]:
    """Pieces in characters of the coded rendering."""
    for run in _DATA.finditer(coded):
        at, end = run.span()
        while at < end:
            code = _CODE.search(coded, at, end)
            found = coder.locate(ord(coded[code.start()])) if code else None
            if found is None:
                yield Piece(at, end, None)
                break
            field, position = found
            lead = code.start() - at
            if lead and field.coded[max(position - lead, 0) : position] != coded[at : code.start()]:
                yield Piece(at, code.start(), None)
                at, lead = code.start(), 0
            first = position - lead
            size = _agreement(field.coded, first, coded, at, end)
            yield Piece(at, at + size, field, first, first + size)
            at += size


def _agreement(a: str, i: int, b: str, j: int, end: int) -> int:
    """How many characters of ``a[i:]`` and ``b[j:end]`` agree; at least one does."""
    low, high = 1, min(len(a) - i, end - j)
    if a.startswith(b[j : j + high], i):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a.startswith(b[j : j + middle], i) else (low, middle - 1)
    return low


def _join(claims: Iterable[Piece], coded: str) -> list[Piece]:
    """Claims of one field with nothing between them but readable strings of this field are one claim."""
    joined: list[Piece] = []
    for claim in claims:
        before = joined[-1] if joined else None
        same = before and before.field and before.field is claim.field and before.last <= claim.first
        if same and coded[before.end : claim.start] == claim.field.coded[before.last : claim.first]:
            joined[-1] = replace(before, end=claim.end, last=claim.last)
        else:
            joined.append(claim)
    return joined


def _widen(claims: list[Piece], coded: str) -> list[Piece]:
    """Readable strings at the edges of a field belong to it where they stand right beside it; plain blanks, which any
    template may write itself, do not."""
    ends = [0, *(claim.end for claim in claims)]
    starts = [*(claim.start for claim in claims), len(coded)]
    firsts: dict[int, int] = {}
    lasts: dict[int, int] = {}
    for number, claim in enumerate(claims):
        if claim.field:
            firsts.setdefault(claim.field.base, number)
            lasts[claim.field.base] = number
    for number in firsts.values():
        claim = claims[number]
        edge = claim.field.coded[: claim.first]
        lead = _whole(edge[::-1], coded[ends[number] : claim.start][::-1])
        claims[number] = replace(claim, start=claim.start - lead, first=claim.first - lead, lead=lead)
    for number in lasts.values():
        claim = claims[number]
        tail = _whole(claim.field.coded[claim.last :], coded[claim.end : starts[number + 1]])
        claims[number] = replace(claim, end=claim.end + tail, last=claim.last + tail, tail=tail)
    return claims


def _whole(edge: str, beside: str) -> int:
    """The length of ``edge``, without plain blanks at its far end, if ``beside`` begins with it; else 0."""
    edge = edge.rstrip(_BLANKS)
    return len(edge) if beside.startswith(edge) else 0


def _replay(coded: str, claims: Sequence[Piece], text: str) -> list[Piece] | None:
    """The claims in characters of ``text``, or None if putting the row's characters back does not give ``text``."""
    pieces, at, done = [], 0, 0
    for number, claim in enumerate(claims):
        said = coded[done : claim.start]
        if not text.startswith(said, at):
            return None
        at += len(said)
        after = claims[number + 1].start if number + 1 < len(claims) else len(coded)
        size = _size(claim, coded, text, at, coded[claim.end : after])
        if size is None:
            return None
        pieces.append(replace(claim, start=at, end=at + size))
        at, done = at + size, claim.end
    return pieces if text[at:] == coded[done:] else None


def _size(claim: Piece, coded: str, text: str, at: int, following: str) -> int | None:
    """How many characters of ``text[at:]`` the claim took there: as it is, or escaped as JSON does."""
    if claim.field is None:
        raw = coded[claim.start : claim.end].translate(_BACK)
    else:
        raw = claim.field.text[claim.first : claim.last]
    for form in (raw, json.dumps(raw, ensure_ascii=False)[1:-1], json.dumps(raw)[1:-1]):
        if text.startswith(form, at) and text.startswith(following, at + len(form)):
            return len(form)
    return None


# --------------------------------------------------------------------------------------------- generation blocks
def _take_marks(coded: str) -> tuple[str, list[tuple[str, int]]]:
    """The rendering without marks, and the marks with the places they had."""
    if not (OPEN in coded or CLOSE in coded):
        return coded, []
    marks = [(mark.group(), mark.start() - i) for i, mark in enumerate(_MARK.finditer(coded))]
    return _MARK.sub('', coded), marks


def _blocks(
    marks: Sequence[tuple[str, int]], claims: Sequence[Piece], pieces: Sequence[Piece]
) -> tuple[tuple[int, int], ...]:
    """Generation blocks in characters of ``text``; a block inside a block is part of it."""
    blocks, depth, begin = [], 0, 0
    for mark, place in marks:
        at = _moved(place, claims, pieces)
        if mark == OPEN:
            depth, begin = depth + 1, begin if depth else at
        else:
            depth -= 1
            if depth == 0:
                blocks.append((begin, at))
    return tuple(blocks)


def _moved(place: int, claims: Sequence[Piece], pieces: Sequence[Piece]) -> int:
    """A place of the coded rendering in characters of the text."""
    number = bisect_right([claim.start for claim in claims], place) - 1
    if number < 0:
        return place
    claim, piece = claims[number], pieces[number]
    return piece.end + place - claim.end if place >= claim.end else piece.start + place - claim.start
