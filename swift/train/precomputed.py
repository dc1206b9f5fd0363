"""Log-probs of the reference, computed for every row before the first step and kept on disk.

Worth it where the reference is a second model, which then leaves memory, and where rows are seen more than once. Rows
are found again by their tokens and weights, so packs, batches and order may be any.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swift.core import files
from swift.core.types import Batch
from swift.objectives.streams import Reference

FILE = 'logps.npz'


class Precomputed:
    """A reference that knows the rows it was given; the first other row has ``make`` build one that computes them.

    Other rows are those that an objective makes itself: prompts with the answers of other prompts.
    """

    def __init__(self, folder: Path, make: Callable[[], Reference]):
        files.verify(folder)
        with np.load(folder / FILE) as saved:
            starts, self._values = saved['starts'].tolist(), saved['values']
            self._place = {int(key): (a, b) for key, a, b in zip(saved['keys'], starts, starts[1:], strict=False)}
        self._make = make
        self._rest: Reference | None = None

    def __call__(self, batches: list[Batch]) -> list[Tensor]:
        found = [self._look_up(batch) for batch in batches]
        unknown = [batch for batch, values in zip(batches, found, strict=True) if values is None]
        more = iter(self._others(unknown) if unknown else ())
        return [next(more) if values is None else values for values in found]

    def _others(self, batches: list[Batch]) -> list[Tensor]:
        if self._rest is None:
            self._rest = self._make()
        return self._rest(batches)

    def _look_up(self, batch: Batch) -> Tensor | None:
        parts: list[np.ndarray] = []
        for key, _ in keys(batch):
            if key not in self._place:
                return None
            a, b = self._place[key]
            parts.append(self._values[a:b])
        return torch.from_numpy(np.concatenate(parts)).to(batch.weight.device)


def keys(batch: Batch) -> Iterator[tuple[int, slice]]:
    """What each group is found by, and where its tokens lie."""
    ids, weight = batch.input_ids.cpu().numpy(), batch.weight.cpu().numpy()
    for first, end in batch.ranges():
        words = np.concatenate([ids[first:end], weight[first:end].view(np.int32)]).astype(np.int64)
        yield zlib.crc32(words) << 32 | zlib.adler32(words[::-1].copy()), slice(first, end)


def compute(
    folder: Path, batches: Iterable[Batch], reference: Reference, *, beat: Callable[[str], None] = lambda what: None
) -> None:
    """Fill ``folder`` with the reference's log-probs of these batches, unless they are there."""
    if folder.exists():
        return
    known: dict[int, np.ndarray] = {}
    for number, batch in enumerate(batches):
        beat(f'reference log-probs, batch {number}')
        [values] = reference([replace(batch, streams={})])
        numbers = values.detach().float().cpu().numpy()
        known |= {key: numbers[where] for key, where in keys(batch)}
    with files.commit(folder) as temp:
        starts = np.cumsum([0, *map(len, known.values())])
        values = np.concatenate(list(known.values())) if known else np.zeros(0, np.float32)
        np.savez(temp / FILE, keys=np.asarray(list(known), np.uint64), starts=starts, values=values)
