"""The smallest template: a token is a byte. It shows what the data room does to rows without any tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from swift.core.errors import RowError
from swift.core.types import ROLES, Encoded, Sample

START, STOP = 256, 257


def encode(sample: Sample) -> list[Encoded]:
    """One sequence: start token, then every turn's bytes; answers and their stop token carry loss."""
    turns = [('text', sample.text, None)] if sample.text is not None else []
    turns += [(each.role, each.content, each.loss) for each in sample.messages]
    ids, weight, role = [START], [0.0], [0]
    for name, text, loss in turns:
        trained = name in ('assistant', 'text')
        piece = [*text.encode(), *([STOP] if trained else [])]
        ids += piece
        weight += [(1.0 if loss is None else loss) if trained else 0.0] * len(piece)
        role += [ROLES.index(name)] * len(piece)
    return [_encoded(ids, weight, role, sample)]


def splitting(length: int):
    """The same, cut into sequences of at most ``length`` tokens."""

    def cut(sample: Sample) -> list[Encoded]:
        (whole,) = encode(sample)
        pieces = []
        for at in range(0, len(whole), length):
            part = slice(at, at + length)
            weight = whole.weight[part].copy()
            weight[0] = 0
            pieces.append(_encoded(whole.input_ids[part], weight, whole.role[part], sample))
        return pieces

    return cut


def deleting(length: int):
    """The same, leaving out rows of more than ``length`` tokens."""
    return lambda sample: [each for each in encode(sample) if len(each) <= length]


def refusing(word: str):
    """The same, rejecting rows that hold a word, as a template does with a conversation it cannot render."""

    def checked(sample: Sample) -> list[Encoded]:
        if any(word in each.content for each in sample.messages):
            raise RowError(f'{sample.origin}: cannot render: the template forbids {word}')
        return encode(sample)

    return checked


def _encoded(ids, weight, role, sample: Sample) -> Encoded:
    return Encoded(np.asarray(ids, np.int32), np.asarray(weight, np.float32), np.asarray(role, np.uint8), sample.origin)


def text_of(ids) -> str:
    """The bytes of token ids as text, without the two control tokens."""
    return bytes(int(each) for each in ids if each < 256).decode()


def pairs(count: int, *, first: int = 0) -> list[dict[str, str]]:
    """Rows of different lengths, each with its number in it."""
    return [
        {'query': f'q{i}' + ' word' * (i % 5), 'response': f'r{i}' + ' word' * (i * 7 % 11)}
        for i in range(first, first + count)
    ]


def jsonl(path: Path, rows: list) -> Path:
    """Write rows as jsonl; text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
    return path
