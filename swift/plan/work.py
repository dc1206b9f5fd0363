"""What a run will do, as far as memory and time follow from it: the shapes of its micro-batches, and how many tokens.

``work(source)`` reads them off the data of a run; ``assumed(...)`` stands in where no data is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from swift.core.types import Batch

LOOKED_AT = 200  # steps of which the shapes are known; the worst of them stands for all
OTHERS = 7  # stretches besides the worst that are rehearsed, evenly spread below it
SMALL = 8  # and of the smallest: libraries keep as much for each new shape, up to a bound, and these take little time


@dataclass(frozen=True, slots=True)
class Shape:
    """A micro-batch: the lengths of its sequences, and how many tokens carry loss."""

    lengths: tuple[int, ...]
    targets: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


Stretch = tuple[Shape, ...]
"""One or two micro-batches of a step in their order: the gradients of the first wait while the second runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """``stretches``: the worst first, then ordinary ones. ``tokens`` and ``steps`` of the whole run, or 0."""

    stretches: tuple[Stretch, ...]
    tokens: int = 0
    steps: int = 0
    assumed: bool = False

    @property
    def worst(self) -> Shape:
        """The largest micro-batch."""
        return max(self.stretches[0], key=_cost)


def work(source: Any, steps: int) -> Work:
    """The shapes of a ``swift.data`` source, which stands afterwards where it stood before.

    Args:
        steps: optimizer steps of the run.
    """
    state = source.state_dict()
    looked = [tuple(shape(batch) for batch in step) for step in islice(iter(source), min(LOOKED_AT, steps))]
    source.load_state_dict(state)
    tokens = sum(each.tokens for step in looked for each in step) / max(1, len(looked))
    pairs = [pair for step in looked for pair in (pairwise(step) if len(step) > 1 else [step])]
    return Work(_chosen(pairs), round(tokens * steps), steps)


def assumed(*, longest: int, micro: int | None, rows: int) -> Work:
    """Full micro-batches in which every token carries loss: no data is known.

    Args:
        longest: tokens of the longest sequence.
        micro: ``--max_tokens_per_batch``; None fills ``rows`` rows.
    """
    total = max(longest, micro or 0) if micro else longest * rows
    lengths = [longest] * (total // longest) + ([total % longest] if total % longest else [])
    full = Shape(tuple(lengths), total - len(lengths))
    return Work(((full, full),), assumed=True)


def shape(batch: Batch) -> Shape:
    return Shape(batch.segments.lengths, int((batch.weight != 0).sum()))


def _chosen(stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """The one with the worst micro-batch, others evenly spread below it, and the smallest."""
    order = sorted(stretches, key=lambda each: max(map(_cost, each)), reverse=True)
    spread: Iterable[Stretch] = (order[(i + 1) * (len(order) - 1) // OTHERS] for i in range(OTHERS))
    return tuple(dict.fromkeys([order[0], *spread, *order[-SMALL:]]))


def _cost(each: Shape) -> tuple[int, int, int]:
    """Tokens, then targets, then the squares of lengths."""
    return each.tokens, each.targets, sum(n * n for n in each.lengths)
