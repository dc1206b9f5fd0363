"""What a run will do, as far as memory and time follow from it: the shapes of its micro-batches, and how many tokens.

``work(source)`` reads them off the data of a run; ``assumed(...)`` stands in where no data is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from swift.core.types import Batch

LOOKED_AT = 200  # steps of which the shapes are known; the worst of them stands for all
OTHERS = 7  # shapes besides the worst that are rehearsed: the heap of a run has seen many


@dataclass(frozen=True, slots=True)
class Shape:
    """A micro-batch: the lengths of its sequences, and how many tokens carry loss."""

    lengths: tuple[int, ...]
    targets: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Work:
    """``shapes``: the worst micro-batch first, then ordinary ones. ``tokens`` and ``steps`` of the whole run, or 0.

    ``accumulates``: a step has several micro-batches, so that gradients are there while the next one runs forward.
    """

    shapes: tuple[Shape, ...]
    accumulates: bool = True
    tokens: int = 0
    steps: int = 0
    assumed: bool = False


def work(source: Any, steps: int) -> Work:
    """The shapes of a ``swift.data`` source, which stands afterwards where it stood before.

    Args:
        steps: optimizer steps of the run.
    """
    state = source.state_dict()
    looked = [[shape(batch) for batch in step] for step in islice(iter(source), min(LOOKED_AT, steps))]
    source.load_state_dict(state)
    shapes = [each for step in looked for each in step]
    tokens = sum(each.tokens for each in shapes) / max(1, len(looked))
    return Work(_chosen(shapes), any(len(step) > 1 for step in looked), round(tokens * steps), steps)


def assumed(*, longest: int, micro: int | None, rows: int) -> Work:
    """Full micro-batches in which every token carries loss: no data is known.

    Args:
        longest: tokens of the longest sequence.
        micro: ``--max_tokens_per_batch``; None fills ``rows`` rows.
    """
    total = max(longest, micro or 0) if micro else longest * rows
    lengths = [longest] * (total // longest) + ([total % longest] if total % longest else [])
    return Work((Shape(tuple(lengths), total - len(lengths)),), assumed=True)


def shape(batch: Batch) -> Shape:
    return Shape(batch.segments.lengths, int((batch.weight != 0).sum()))


def _chosen(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """The worst, by tokens, then by targets and the squares of lengths; and others evenly spread below it."""
    order = sorted(shapes, key=_cost, reverse=True)
    spread: Iterable[Shape] = (order[(i + 1) * (len(order) - 1) // (OTHERS + 1)] for i in range(OTHERS))
    return tuple(dict.fromkeys([order[0], *spread]))


def _cost(each: Shape) -> tuple[int, int, int]:
    return each.tokens, each.targets, sum(n * n for n in each.lengths)
