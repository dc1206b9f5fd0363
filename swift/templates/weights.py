"""``--loss_scale``: how much each part of a conversation counts.

``BASE+RULES+RULES``: the base says which turns are trained (``default``: every answer; ``last_round``: the answers
after the last question or tool result; ``all``: everything, prompts too), the rules weigh parts of an answer, and
their weights multiply. Rules have a name (``files/loss_scale.yaml`` has them and describes their form) or are a JSON
file.
An answer's own ``loss`` goes first: 0 leaves the turn out, another number trains it and multiplies. On other messages
it has no meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from swift.core.errors import ConfigError, did_you_mean
from swift.core.types import Message

BASES = ('default', 'last_round', 'all')
FILE = Path(__file__).parent / 'files' / 'loss_scale.yaml'


@dataclass(frozen=True)
class Rules:
    """One set of rules. ``marks``: plain strings with their own weight and that of what follows; ``matches``: regular
    expressions; ``questions``: strings in a question that weigh the whole answer to it."""

    marks: Mapping[str, tuple[float, float]]
    matches: Sequence[tuple[re.Pattern, float]]
    questions: Mapping[str, float]

    def weigh(self, answer: str, question: str) -> np.ndarray:
        """The weight of each character of ``answer``."""
        weights = np.ones(len(answer), dtype=np.float32)
        for words, weight in self.questions.items():
            if words in question:
                weights[:] = weight
                return weights
        if self.marks:
            self._weigh_marked_(weights, answer)
            return weights
        for pattern, weight in self.matches:
            for match in pattern.finditer(answer):
                weights[match.start() : match.end()] = weight
        return weights

    def silent(self, answer: str, question: str) -> bool:
        """Whether they say nothing of this answer: every character of it weighs 1."""
        if any(words in question for words in self.questions):
            return False
        if self.marks:
            return not any(mark in answer for mark in self.marks)
        return not any(pattern.search(answer) for pattern, _ in self.matches)

    def _weigh_marked_(self, weights: np.ndarray, answer: str) -> None:
        found = list(re.finditer('|'.join(map(re.escape, sorted(self.marks, key=len, reverse=True))), answer))
        ends = [*(match.start() for match in found[1:]), len(answer)]
        for match, end in zip(found, ends, strict=False):
            own, after = self.marks[match.group()]
            weights[match.start() : match.end()] = own
            weights[match.end() : end] = after


@dataclass(frozen=True)
class LossScale:
    """A whole ``--loss_scale``."""

    base: str = 'default'
    rules: tuple[Rules, ...] = ()

    def facts(self) -> list[Any]:
        """All that decides weights, for fingerprints: files of rules by their content."""
        rules = [
            [dict(each.marks), [(pattern.pattern, weight) for pattern, weight in each.matches], dict(each.questions)]
            for each in self.rules
        ]
        return [self.base, *rules]

    def turn(self, messages: Sequence[Message], index: int) -> float:
        """Weight of the answer ``messages[index]`` as a whole."""
        own = messages[index].loss
        if own is not None:
            return float(own)
        asked = max((i for i, message in enumerate(messages) if message.role in ('user', 'tool')), default=-1)
        return float(self.base != 'last_round' or index > asked)

    def silent(self, answer: str, question: str) -> bool:
        """Whether all of an answer weighs the same, as no rule says otherwise."""
        return all(rules.silent(answer, question) for rules in self.rules)

    def parts(self, answer: str, question: str) -> list[tuple[int, int, float]]:
        """Characters ``[start, end)`` of an answer with their weight, in order and without gaps."""
        if self.silent(answer, question):
            return [(0, len(answer), 1.0)]
        weights = np.ones(len(answer), dtype=np.float32)
        for rules in self.rules:
            weights *= rules.weigh(answer, question)
        parts, at = [], 0
        for weight, group in groupby(weights.tolist()):
            size = sum(1 for _ in group)
            parts.append((at, at + size, weight))
            at += size
        return parts


def parse(spec: str) -> LossScale:
    """Read a ``--loss_scale`` value.

    Raises:
        ConfigError: naming every part that is neither a base, a set of rules nor a readable file of rules.
    """
    parts = [part.strip() for part in spec.split('+') if part.strip()]
    base = parts.pop(0) if parts and parts[0] in BASES else 'default'
    rules, problems = [], []
    for part in parts:
        try:
            rules.append(_rules(part))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return LossScale(base, tuple(rules))


def names() -> list[str]:
    """Names that may follow the base."""
    return sorted(_built_in())


@lru_cache
def _built_in() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding='utf-8'))


def _rules(name: str) -> Rules:
    if name in _built_in():
        return _read(_built_in()[name], name)
    path = Path(name)
    if path.suffix != '.json' or not path.is_file():
        known = [*BASES, *_built_in()]
        raise ConfigError(
            f'--loss_scale {name}: neither rules nor a JSON file with rules{did_you_mean(name, known)} '
            f'Known: {", ".join(known)}; a base (default, last_round, all) comes first'
        )
    try:
        return _read(json.loads(path.read_text(encoding='utf-8')), name)
    except ValueError as error:
        raise ConfigError(f'--loss_scale {name}: not JSON: {error}') from error


def _read(table: Any, name: str) -> Rules:
    """Rules from a table of patterns, or from ``{'response': table, 'query': table}``."""
    if not isinstance(table, dict):
        raise ConfigError(f'--loss_scale {name}: expected an object of pattern: [weight, ...]')
    response, query = table, {}
    if set(table) <= {'response', 'query'} and all(isinstance(part, dict) for part in table.values()):
        response, query = table.get('response', {}), table.get('query', {})
    marks, matches = {}, []
    for pattern, given in response.items():
        weights = _numbers(given, f'--loss_scale {name}: {pattern!r}')
        if len(weights) == 2:
            marks[pattern] = weights
            continue
        try:
            matches.append((re.compile(pattern, re.DOTALL), weights[0]))
        except re.error as error:
            raise ConfigError(f'--loss_scale {name}: {pattern!r} is no regular expression: {error}') from error
    questions = {words: _numbers(given, f'--loss_scale {name}: {words!r}')[0] for words, given in query.items()}
    return Rules(marks, matches, questions)


def _numbers(given: Any, where: str) -> tuple[float, ...]:
    numbers = tuple(given) if isinstance(given, list) else (given,)
    if not 1 <= len(numbers) <= 2 or not all(type(n) in (int, float) and 0 <= n < 1e6 for n in numbers):
        raise ConfigError(f'{where}: expected one or two weights of at least 0, not {given!r}')
    return tuple(float(number) for number in numbers)
