"""The rows that every side trains on, written once as JSON lines.

natural: conversations as they come. The shipped rows are single questions, so some are joined to longer ones, which
gives the spread of lengths of ordinary chat data. uniform: every row has the same number of tokens. text: for
pre-training. pairs: two answers of one length to a prompt, whose lengths are as the kind says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swift.bench.dialect import Row
from swift.core import files
from swift.core.errors import DataError

SHIPPED = ['swift/python-docs', 'swift/chatterbot', 'swift/facts']
JOINED = (1, 1, 2, 3, 5, 8, 13)  # questions of one row of the shipped data
ROOM = 0.9  # part of the length that pairs are aimed at, since words have more tokens here and fewer there
SPARE = 1.4  # more rows than the steps need, because packs take more


@dataclass(frozen=True, slots=True)
class Rows:
    """A file of rows. ``mean`` is tokens a row, ``reach`` the mean length seen by a token: sum of squares over sum."""

    path: Path
    count: int
    mean: float
    reach: float
    dropped: int


def write(path: Path, kind: str, rows: Sequence[Row], length: Callable[[Any], int], cap: int, count: int) -> Rows:
    """Write ``count`` rows of a kind, none longer than ``cap`` tokens, again from the first when they run out.

    Raises:
        DataError: no row fits.
    """
    made, dropped = [], 0
    lengths: list[int] = []
    for row in KINDS[kind](rows, length, cap):
        size = length(row)
        if size > cap * (2 if isinstance(row, dict) else 1):
            dropped += 1
            continue
        made.append(row if isinstance(row, dict) else {'messages': row} if isinstance(row, list) else {'text': row})
        lengths.append(size)
        if len(made) == count:
            break
    if not made:
        raise DataError(f'no row of the data fits into {cap} tokens: raise --max_length')
    while len(made) < count:
        made.append(made[len(made) % len(lengths)])
        lengths.append(lengths[len(lengths) % len(lengths)])
    files.write(path, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in made))
    total = sum(lengths)
    return Rows(path, len(made), total / len(made), sum(size * size for size in lengths) / total, dropped)


def conversations(dataset: Sequence[str], seed: int) -> list[Row]:
    """Conversations of text out of datasets; of the shipped ones joined, if none is named."""
    from swift import data
    from swift.data.args import DataArgs

    loaded = data.load(DataArgs(dataset=list(dataset) or SHIPPED, data_seed=seed)).train
    rows = [row for each in loaded.readable() if (row := _plain(each)) is not None]
    if not rows:
        raise DataError(f'{", ".join(dataset)}: no plain conversations in it: bench takes rows of text only')
    return rows if dataset else list(_joined(rows, random.Random(seed)))


def _plain(row: Mapping[str, Any]) -> Row | None:
    """The messages of a standard row of text; None for tools, media, and what has no answer."""
    messages = row.get('messages', [])
    roles = [message['role'] for message in messages]
    turns = roles[1:] if roles[:1] == ['system'] else roles
    if row.keys() & {'tools', 'images', 'videos', 'audios'} or not turns:
        return None
    if turns != ['user', 'assistant'] * (len(turns) // 2):
        return None
    return [{'role': message['role'], 'content': message['content'].strip()} for message in messages]


def _joined(rows: Sequence[Row], dice: random.Random) -> Iterator[Row]:
    """Questions with their answers, one to thirteen in one row."""
    at = 0
    while at < len(rows):
        group = rows[at : at + dice.choice(JOINED)]
        at += len(group)
        content = ['\n'.join(row[i]['content'] for row in group) for i in (0, 1)]
        yield [{'role': role, 'content': text} for role, text in zip(('user', 'assistant'), content, strict=True)]


def _natural(rows: Sequence[Row], length: Callable[[Any], int], cap: int) -> Iterator[Row]:
    return iter(rows)


def _texts(rows: Sequence[Row], length: Callable[[Any], int], cap: int) -> Iterator[str]:
    return ('\n'.join(message['content'] for message in row) for row in rows)


def _uniform(rows: Sequence[Row], length: Callable[[Any], int], cap: int) -> Iterator[Row]:
    """Rows of exactly ``cap`` tokens: answers run together, and the last words chosen so that it comes out even."""
    words = ' '.join(message['content'] for row in rows for message in row).split()
    at = 0
    for number in range(len(words)):
        make = partial(_part, words, number, at)
        low, high = 1, cap
        while low < high:  # the most words that fit
            middle = (low + high + 1) // 2
            low, high = (middle, high) if length(make(middle)) <= cap else (low, middle - 1)
        made = make(low)
        made[1]['content'] += ' a' * (cap - length(made))
        at += low
        if length(made) == cap:
            yield made


def _part(words: Sequence[str], number: int, start: int, size: int) -> Row:
    """A question, and ``size`` of the words for an answer."""
    said = ' '.join(words[(start + i) % len(words)] for i in range(size))
    return [{'role': 'user', 'content': f'Go on, part {number}.'}, {'role': 'assistant', 'content': said}]


def _pairs(
    rows: Sequence[Row], length: Callable[[Any], int], cap: int, *, prompt: int, answer: int
) -> Iterator[dict[str, Any]]:
    """Pairs of two sequences of nearly ``cap`` tokens, as many of the prompt and the answer as these two say."""
    words = ' '.join(message['content'] for row in rows for message in row).split()
    rate = length(_part(words, 0, 0, 400)) / 400  # tokens a word
    asked, said = (max(1, round(ROOM * cap * share / (prompt + answer) / rate)) for share in (prompt, answer))
    at = 0
    for number in range(len(words)):
        question, chosen, rejected = (
            ' '.join(words[(at + i) % len(words)] for i in range(start, start + size))
            for start, size in ((0, asked), (asked, said), (asked + said, said))
        )
        at += asked + 2 * said
        turns = [{'role': 'user', 'content': f'{number}. {question}'}, {'role': 'assistant', 'content': chosen}]
        yield {'messages': turns, 'rejected_response': rejected}


KINDS: dict[str, Callable[..., Iterator[Any]]] = {
    'natural': _natural,
    'uniform': _uniform,
    'text': _texts,
    'pairs 3:1': partial(_pairs, prompt=3, answer=1),
    'pairs 1:1': partial(_pairs, prompt=1, answer=1),
    'pairs 1:3': partial(_pairs, prompt=1, answer=3),
}
