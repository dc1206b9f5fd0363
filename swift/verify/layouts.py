"""A step of the same rows computed in several ways: packed or apart, prefixes shared or repeated, with every kernel.

What is true is what the plain path computes: one sequence at a time, whole, by torch's and the model's own operations.
Nothing here is for tests: it is the backend that trains. On whole rows everything together is held against that, and
each way by itself on the rows made short, which tells the same of it at a fraction of the cost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swift.core.types import Batch, Encoded, Objective, Segments
from swift.data.collate import collate
from swift.kernels.switch import plain
from swift.objectives import streams
from swift.objectives.streams import Reference
from swift.parallel.one_device import TorchBackend

SMALL = 1e-3
"""A tensor whose gradient is less than this part of the largest one's is compared with that part: it is rounding."""
PACKED = 'attention'
"""The kernel that lets many sequences run in one pass."""
TOKENS = 64
"""Of rows made short, all together."""
LEAST = 8
"""Tokens that each of their segments keeps."""


class Computed(NamedTuple):
    """Loss of a step, and its gradient by the names of what learns."""

    loss: float
    gradient: dict[str, Tensor]


class Distance(NamedTuple):
    """Relative differences of loss and gradient, and the tensor whose gradient differs most."""

    loss: float
    gradient: float
    where: str


@dataclass(frozen=True, slots=True)
class Step:
    """A model with an objective, the reference that it is compared with, and the rows of an optimizer step."""

    backend: TorchBackend
    objective: Objective
    reference: Reference | None
    rows: list[Encoded]

    def short(self) -> Step:
        """The same with rows of few tokens, around the first that carries loss."""
        return replace(self, rows=[shortened(row, TOKENS // len(self.rows)) for row in self.rows])

    # ------------------------------------------------------------------------------------------------------- the ways
    def together(self) -> Distance:
        """How far the step is from the plain path, as training takes it: with all kernels, packed, prefixes shared."""
        return farther(self.computed(), self._plain())

    def packing(self) -> Distance:
        """How far the step is from the plain path with packed attention, and no other kernel."""
        return farther(self._only(PACKED), self._plain())

    def kernels(self) -> Iterator[tuple[str, Distance]]:
        """How far the step is with packed attention and one other kernel from that without the other."""
        without = self._only(PACKED)
        for name in sorted(self._names() - {PACKED}):
            yield name, farther(self._only(PACKED, name), without)

    def layouts(self) -> Iterator[tuple[str, Distance]]:
        """How far the step is from itself when it is cut, and when what its sequences share is computed for each."""
        whole = self.computed()
        several = [farther(self.computed(split), whole) for split in self._splits()]
        yield 'micro-batches', max(several, key=lambda far: (far.gradient, far.loss))
        if any(shares(row) for row in self.rows):
            yield 'prefixes', farther(self.computed(rows=[unshared(row) for row in self.rows]), whole)

    def resumption(self) -> tuple[float, str]:
        """The largest difference of a weight after a step, and after the same step from a state that was loaded."""
        self._move()
        tensors, data = self.backend.state()
        saved = {name: each.clone() for name, each in tensors.items()}, copy.deepcopy(data)
        random = torch.get_rng_state()
        went_on = self._move()
        self.backend.load_state(*saved)
        torch.set_rng_state(random)
        resumed = self._move()
        far = {name: float((each - resumed[name]).abs().max()) for name, each in went_on.items()}
        where = max(far, key=lambda name: (far[name] != far[name], far[name]))
        return far[where], where

    # ------------------------------------------------------------------------------------------------------- one way
    def computed(self, split: Sequence[Sequence[int]] = (), *, rows: list[Encoded] | None = None) -> Computed:
        """The step in micro-batches of the rows with these numbers; in one unless they are given."""
        total, count = self.backend.forward_backward(self._filled(split, rows), self.objective)['loss']
        return Computed(float(total) / max(float(count), 1e-30), self._taken())

    def _filled(self, split: Sequence[Sequence[int]] = (), rows: list[Encoded] | None = None) -> list[Batch]:
        rows = rows or self.rows
        step = [collate([rows[i] for i in part], list(part)) for part in split or [range(len(rows))]]
        forward = lambda batches: self.backend.forward(batches, needs=self.objective.needs)
        return streams.filled(step, self.objective, forward=forward, reference=self.reference)

    def _move(self) -> dict[str, Tensor]:
        """Take the step. Returns the weights after it."""
        self.backend.forward_backward(self._filled(), self.objective)
        self.backend.optim_step()
        return {name: each.detach().clone() for name, each in self.backend.masters.items()}

    def _taken(self) -> dict[str, Tensor]:
        """The gradients, which the backend then has no more."""
        found = {}
        for name, master in self.backend.masters.items():
            trained = self.backend.trained[name]
            grad = master.grad if master.grad is not None else trained.grad
            found[name] = torch.zeros_like(master) if grad is None else grad / self.backend.loss_scale
            master.grad = trained.grad = None
        return found

    def _plain(self) -> Computed:
        with self._without(self._names()):
            return self.computed([[i] for i in range(len(self.rows))])

    def _only(self, *names: str) -> Computed:
        """The step with no kernels but these."""
        with self._without(self._names() - set(names)):
            return self.computed()

    def _splits(self) -> list[list[list[int]]]:
        """Row by row, in three and in two; from the end where it is the same with few rows."""
        every = list(range(len(self.rows)))
        cut = lambda order, size: [order[at : at + max(1, size)] for at in range(0, len(order), max(1, size))]
        found = [cut(every, 1), cut(every[::-1], len(every) // 3), cut(every, len(every) // 2)]
        return list({frozenset(map(frozenset, split)): split for split in found}.values())

    def _names(self) -> set[str]:
        return {switch.name for switch in self.backend.kernels}

    @contextmanager
    def _without(self, names: set[str]) -> Iterator[None]:
        with plain([switch for switch in self.backend.kernels if switch.name in names]):
            yield


def farther(one: Computed, other: Computed) -> Distance:
    """How far one is from the other."""
    loss = abs(one.loss - other.loss) / max(1.0, abs(other.loss))
    size = {name: _norm(each) for name, each in other.gradient.items()}
    least = SMALL * max(size.values(), default=0.0) or 1.0
    far = {name: _norm(one.gradient[name] - each) / max(size[name], least) for name, each in other.gradient.items()}
    where = max(far, key=lambda name: (far[name] != far[name], far[name]), default='')  # what is no number is largest
    return Distance(loss, far.get(where, 0.0), where)


def _norm(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------------------- rows
def shares(row: Encoded) -> bool:
    """Whether two sequences of the row go on after one segment."""
    parents = [parent for parent in (row.segments.parents if row.segments else ()) if parent >= 0]
    return len(parents) > len(set(parents))


def shortened(row: Encoded, tokens: int) -> Encoded:
    """The row with about so many tokens: each segment keeps those around the first that carries loss, or its last."""
    segments = row.segments or Segments((len(row),))
    kept = [_window(row.weight[a:b], tokens // len(segments.lengths)) + a for a, b in pairwise(segments.starts)]
    taken = np.concatenate(kept)
    parts = {name: getattr(row, name)[taken] for name in ('input_ids', 'weight', 'role')}
    return replace(row, segments=row.segments and Segments(tuple(map(len, kept)), segments.prefix_of), **parts)


def _window(weight: np.ndarray, size: int) -> np.ndarray:
    """Places of the tokens of a segment that are kept."""
    size = min(len(weight), max(LEAST, size))
    first = int(np.argmax(weight != 0)) if weight.any() else len(weight)
    start = min(max(0, first - size // 2), len(weight) - size)
    return np.arange(start, start + size)


def unshared(row: Encoded) -> Encoded:
    """The row with every sequence whole, as if its sequences had nothing in common."""
    if row.segments is None or not shares(row):
        return row
    starts, paths = row.segments.starts, [row.segments.path(leaf) for leaf in row.segments.leaves]
    taken = np.concatenate([np.arange(starts[i], starts[i + 1]) for path in paths for i in path])
    lengths = tuple(sum(row.segments.lengths[i] for i in path) for path in paths)
    parts = {name: getattr(row, name)[taken] for name in ('input_ids', 'weight', 'role')}
    return replace(row, segments=Segments(lengths), **parts)
