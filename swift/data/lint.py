"""What is wrong with data that can be read: rows that teach nothing, answers without an end, doubles, leaked tokens.

    examiner = Examiner(stop_ids=..., control=..., max_length=...)
    examiner.add(sample, encoded)      # for every row
    lint = examiner.finish()           # findings with row numbers, and statistics
    lint.refuse()                      # DataError if any finding is an error

Rules that read text look at the Sample (``faults.py``); rules that read tokens work on whole blocks of rows at once, in
numpy, and look at every sequence of a group.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from swift.core.errors import DataError
from swift.core.types import ROLES, Encoded, Origin, Sample
from swift.data.faults import faults, is_answered, labels
from swift.data.likeness import Likeness

EXAMPLES = 20  # rows kept for each finding
SHOWN = 5  # of them, in one line
CLASSES = 1000  # that are counted
BLOCK = 1 << 18  # tokens looked at together
CONTENT = np.isin(np.arange(len(ROLES)), [ROLES.index(role) for role in ('user', 'assistant', 'tool', 'text')])


@dataclass(frozen=True, slots=True)
class Rule:
    """``error`` rules stop a run before it trains."""

    severity: Literal['error', 'warning']
    what: str
    fix: str


RULES = {
    'zero-loss': Rule('error', 'no token carries loss', 'raise --max_length, or look at them with swift inspect'),
    'missing-stop': Rule(
        'error', 'the answer ends without a stop token, so the model would never stop', 'choose another --template'
    ),
    'truncated': Rule('warning', 'the answer loses its end to --max_length', 'raise --max_length'),
    'leaked-control': Rule(
        'warning', 'the text holds control tokens of the template; is it rendered already?', 'strip them from the data'
    ),
    'empty-turn': Rule('warning', 'a turn is empty', 'fill or remove it'),
    'role-order': Rule('warning', 'roles do not alternate as in a conversation', 'check how the rows were made'),
    'same-pair': Rule('warning', 'the chosen and the rejected answer are the same', 'remove them'),
    'empty-answer': Rule('warning', 'one answer of the pair is empty', 'remove them'),
    'other-prompt': Rule('warning', 'the two answers of the pair have different prompts', 'give them the same prompt'),
    'cut-answer': Rule('warning', 'one answer of the pair is the other, broken off', 'look whether it was cut short'),
    'cut-pair': Rule(
        'warning', 'one answer of the pair is cut by --max_length, the other is not', 'raise --max_length'
    ),
    'negative-margin': Rule('warning', 'the margin says that the rejected answer is better', 'exchange the answers'),
    'false-negative': Rule('warning', 'a negative text is the same as a positive one', 'remove it from the negatives'),
    'one-label': Rule('warning', 'every row has the same label, so nothing is told apart', 'add rows of the others'),
    'duplicate': Rule('warning', 'the same content as an earlier row', 'remove them'),
    'near-duplicate': Rule('warning', 'nearly the same content as an earlier row', 'check whether both are wanted'),
    'overlap': Rule('warning', 'also among the evaluation rows', 'remove them from one side'),
}


@dataclass(slots=True)
class Finding:
    """One rule's harvest: how many rows, and where the first ones are."""

    rule: str
    count: int = 0
    rows: list[str] = field(default_factory=list)

    def add(self, sequences: np.ndarray, place: Callable[[int], str]) -> None:
        """Count these sequences; ``place`` names one."""
        self.count += len(sequences)
        self.rows += map(place, sequences[: EXAMPLES - len(self.rows)].tolist())

    @property
    def severity(self) -> str:
        return RULES[self.rule].severity

    def __str__(self) -> str:
        rule = RULES[self.rule]
        more = ', ...' if self.count > SHOWN else ''
        rows = f': {", ".join(_shortly(self.rows[:SHOWN]))}{more}' if self.rows else ''
        return f'{self.severity} {self.rule}: {self.count:,} x {rule.what} ({rule.fix}){rows}'


def _shortly(rows: Iterable[str]) -> Iterable[str]:
    """Rows as ``path:number``, the path only where it changes."""
    before = None
    for row in rows:
        path, _, number = row.rpartition(':')
        yield number if path == before else row
        before = path


@dataclass(slots=True)
class Stats:
    """Sums over sequences; the properties are what people read."""

    rows: int = 0
    sequences: int = 0
    tokens: int = 0
    squares: int = 0
    supervised: int = 0
    repeated: int = 0
    """Tokens that whole sequences have more, where those of a row share their beginning."""
    shortest: int = 0
    longest: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    """How many rows have each flag or class; scores are not counted."""

    @property
    def mean(self) -> float:
        return self.tokens / max(self.sequences, 1)

    @property
    def std(self) -> float:
        return math.sqrt(max(self.squares / max(self.sequences, 1) - self.mean**2, 0.0))

    def add(self, lengths: np.ndarray, supervised: int) -> None:
        low, high = int(lengths.min()), int(lengths.max())
        self.shortest = min(self.shortest, low) if self.sequences else low
        self.longest = max(self.longest, high)
        self.sequences += len(lengths)
        self.tokens += int(lengths.sum())
        self.squares += int((lengths.astype(np.int64) ** 2).sum())
        self.supervised += supervised

    @property
    def shared(self) -> float:
        """Part of the tokens of whole sequences that is computed once instead of again."""
        return self.repeated / max(self.tokens + self.repeated, 1)

    def count(self, labels: Iterable[float]) -> None:
        """Count the labels of a row, if they are flags or classes."""
        for each in {int(each) for each in labels if each == int(each)}:
            if str(each) in self.labels or len(self.labels) < CLASSES:
                self.labels[str(each)] = self.labels.get(str(each), 0) + 1

    @property
    def balance(self) -> str:
        """The most frequent labels with their shares of the rows that have one; nothing when none has."""
        total = sum(self.labels.values())
        most = sorted(self.labels.items(), key=lambda each: (-each[1], each[0]))
        told = ', '.join(f'{label} ({count / total:.0%})' for label, count in most[:SHOWN])
        return f'labels {told}{", ..." if len(most) > SHOWN else ""}' if total else ''

    def __str__(self) -> str:
        share = self.supervised / max(self.tokens, 1)
        return (
            f'{self.sequences:,} sequences, {self.tokens:,} tokens, {self.mean:.1f} ± {self.std:.1f} each '
            f'({self.shortest:,} to {self.longest:,}), {share:.1%} carry loss'
            + (f'; {self.balance}' * bool(self.labels))
        )


@dataclass(slots=True)
class Lint:
    """Findings, worst first, and statistics."""

    findings: list[Finding] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.findings if each.severity == 'error']

    @property
    def warnings(self) -> list[Finding]:
        return [each for each in self.findings if each.severity == 'warning']

    def refuse(self) -> None:
        """Raise DataError if there are errors."""
        if self.errors:
            lines = '\n'.join(f'  {each}' for each in self.errors)
            raise DataError(
                f'the data has faults that spoil training; mend them, or train all the same with --lint warn\n{lines}'
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Lint:
        return cls([Finding(**each) for each in value['findings']], Stats(**value['stats']))


class Examiner:
    """Looks at every row once, in order.

    Args:
        stop_ids: tokens that end an answer; none switches the rules about ends off.
        control: control tokens of the template, as text.
        max_length: where truncation cuts; None means it never does.
    """

    def __init__(self, *, stop_ids: Sequence[int] = (), control: Sequence[str] = (), max_length: int | None = None):
        self._stop_ids, self._max_length = np.asarray(sorted(stop_ids), np.int64), max_length
        longest_first = sorted(filter(None, control), key=len, reverse=True)
        self._control = re.compile('|'.join(map(re.escape, longest_first))) if longest_first else None
        self._findings = {name: Finding(name) for name in RULES}
        self._stats = Stats()
        self._block: list[tuple[Encoded, bool, bool]] = []  # sequence, ends a conversation, begins a row
        self._tokens = 0
        self._likeness = Likeness()
        self._facts = (sorted(stop_ids), longest_first, max_length)
        self._paths: dict[str, int] = {}
        self._places = array('i'), array('q')  # of each sequence: path, row

    def add(self, sample: Sample, encoded: Sequence[Encoded]) -> None:
        """Look at one row and its sequences."""
        self._stats.rows += 1
        for rule in faults(sample, control=self._control):
            self._findings[rule].add(np.zeros(1, np.int64), lambda _: str(sample.origin))
        if not sample.steps:
            self._stats.count(labels(sample))
        last = len(encoded) - 1
        for i, each in enumerate(encoded):
            self._block.append((each, i == last and _asks(sample), i == 0))
            self._tokens += len(each)
            self._places[0].append(self._paths.setdefault(each.origin.path, len(self._paths)))
            self._places[1].append(each.origin.row)
        if self._tokens >= BLOCK:
            self._look_at_block()

    def fingerprint(self) -> str:
        """Changes whenever the same rows could have other findings."""
        return repr(self._facts)

    def finish(self) -> Lint:
        """All findings."""
        self._look_at_block()
        paths, rows = (np.asarray(each) for each in self._places)
        doubles = Finding('duplicate'), Finding('near-duplicate')
        for finding, earlier in zip(doubles, self._likeness.doubles(), strict=True):
            later = np.flatnonzero(earlier >= 0)
            there = earlier[later]
            another = (paths[later] != paths[there]) | (rows[later] != rows[there])  # path#500 repeats rows as asked
            both = lambda i, earlier=earlier: f'{self._place(i)} = {self._place(earlier[i])}'
            finding.add(later[another], both)
        if len(self._stats.labels) == 1 and self._stats.rows > 1:
            self._findings['one-label'].count = self._stats.rows
        found = [each for each in (*self._findings.values(), *doubles) if each.count]
        return Lint(sorted(found, key=lambda each: each.severity != 'error'), self._stats)

    def _look_at_block(self) -> None:
        if not self._block:
            return
        rows = [each for each, _, _ in self._block]
        chats, firsts = np.asarray([each[1:] for each in self._block]).T
        before = len(self._places[0]) - len(rows)
        ids = np.concatenate([each.input_ids for each in rows])
        trained = np.concatenate([each.weight for each in rows]) > 0
        lengths = np.asarray([len(each) for each in rows])
        self._stats.add(lengths, int(trained.sum()))
        owners, ends, whole = _sequences(rows, np.where(trained, np.arange(len(ids)), -1))
        self._stats.repeated += int(whole.sum()) - int(lengths.sum())
        taught = np.zeros(len(rows), bool)
        np.logical_or.at(taught, owners, ends >= 0)
        begins = np.flatnonzero(firsts)  # a piece of a row may have no loss
        silent = ~np.logical_or.reduceat(taught | _is_read(rows), begins)
        self._note('zero-loss', before + begins[silent])
        if len(self._stop_ids):
            open_end = chats[owners] & (ends >= 0) & ~np.isin(ids[ends], self._stop_ids)
            cut = whole >= (self._max_length or np.inf)
            self._note('truncated', before + np.unique(owners[open_end & cut]))
            self._note('missing-stop', before + np.unique(owners[open_end & ~cut]))
        self._note('cut-pair', before + self._cut_pairs(rows, owners, whole))
        contents = [each.input_ids[CONTENT[each.role]] if len(each.role) else each.input_ids for each in rows]
        self._likeness.add(contents, near=[each.segments is None for each in rows])  # pairs share prompts and answers
        self._block, self._tokens = [], 0

    def _cut_pairs(self, rows: Sequence[Encoded], owners: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Rows that lost a part of some sequences and not of others."""
        long = np.bincount(owners, whole >= (self._max_length or np.inf), len(rows))
        shortened = np.asarray([each.truncated for each in rows])
        return np.flatnonzero(shortened & (long > 0) & (long < np.bincount(owners, minlength=len(rows))))

    def digests(self) -> np.ndarray:
        """A digest of the content of each sequence, uint64, for ``overlap``."""
        self._look_at_block()
        return self._likeness.digests()

    def _note(self, rule: str, sequences: np.ndarray) -> None:
        self._findings[rule].add(sequences, self._place)

    def _place(self, sequence: int) -> str:
        return str(Origin(list(self._paths)[self._places[0][sequence]], self._places[1][sequence]))


def _sequences(rows: Sequence[Encoded], places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every sequence of every row: its row, the place of its last trained token (-1 for none), and its length.

    A sequence of a group ends with one of the segments that none continues, and begins with what that continues.

    Args:
        places: of trained tokens, -1 elsewhere. Int [tokens of all rows]
    """
    lengths = np.asarray(
        [length for each in rows for length in (each.segments.lengths if each.segments else [len(each)])]
    )
    last = np.maximum.reduceat(places, np.cumsum(lengths) - lengths)  # [segments]
    out: list[tuple[int, int, int]] = []
    first = 0
    for i, each in enumerate(rows):
        if each.segments is None:
            out.append((i, last[first], lengths[first]))
            first += 1
            continue
        for leaf in each.segments.leaves:
            path = [first + part for part in each.segments.path(leaf)]
            out.append((i, max(last[path]), sum(lengths[path])))
        first += len(each.segments.lengths)
    owners, ends, whole = np.asarray(out).T
    return owners, ends, whole


def _is_read(rows: Sequence[Encoded]) -> np.ndarray:
    """Rows that a head reads, so that none of their tokens needs loss."""
    return np.asarray([bool(each.label) or each.segments is not None for each in rows])


def _asks(sample: Sample) -> bool:
    """Whether someone asks and is answered: a lone answer is a document to pre-train on, which needs no end."""
    return is_answered(sample) and any(each.role == 'user' for each in sample.messages)


def examine(rows: Iterable[tuple[Sample, Sequence[Encoded]]], **examiner: Any) -> Lint:
    """Lint rows that are at hand; keywords as for Examiner."""
    examining = Examiner(**examiner)
    for sample, encoded in rows:
        examining.add(sample, encoded)
    return examining.finish()


def overlap(train: np.ndarray, val: np.ndarray, place: Callable[[int], Origin]) -> Finding:
    """Evaluation sequences whose content is trained on, from the digests of both; ``place`` names a val sequence."""
    finding = Finding('overlap')
    finding.add(np.flatnonzero(np.isin(val, train[train != 0])), lambda i: str(place(i)))
    return finding
