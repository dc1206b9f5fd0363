"""Simple agreement of answers with references: exact matches, and ROUGE (Lin, 2004).

    ROUGE-N: F1 of common n-grams;  ROUGE-L: F1 of the longest common subsequence.

Chinese, Japanese and Korean characters count as words of their own, so that no word segmenter is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

WORD = re.compile(
    r'[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+'
)


def accuracy(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Part of the answers that equal their reference, white space around them apart."""
    return {
        'acc': _mean([answer.strip() == wanted.strip() for answer, wanted in zip(answers, references, strict=True)])
    }


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1."""
    pairs = [(words(answer), words(wanted)) for answer, wanted in zip(answers, references, strict=True)]
    return {
        'rouge-1': _mean([_ngrams(a, b, 1) for a, b in pairs]),
        'rouge-2': _mean([_ngrams(a, b, 2) for a, b in pairs]),
        'rouge-l': _mean([_f1(_common_subsequence(a, b), len(a), len(b)) for a, b in pairs]),
    }


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {'acc': accuracy, 'rouge': rouge}


def words(text: str) -> list[str]:
    """Words in lower case, punctuation left out."""
    return WORD.findall(text.lower())


def _ngrams(answer: list[str], wanted: list[str], n: int) -> float:
    first, second = (Counter(zip(*(each[i:] for i in range(n)), strict=False)) for each in (answer, wanted))
    return _f1((first & second).total(), first.total(), second.total())


def _common_subsequence(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def _f1(common: int, answer: int, wanted: int) -> float:
    return 2 * common / (answer + wanted) if answer + wanted else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float('nan')
