"""The model's own forward pass over rows of many sequences at once, with keys and values in pages.

For models that ``kernels.decoder`` does not compute and for other devices: experts, quantised weights, learned
positions. Whether a model goes along is found by trial: its attention must be all that joins tokens.

Shapes: ``T`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from swift.engines.native.packed_runner import Chunk
from swift.engines.native.runner import Runner
from swift.kernels import angles
from swift.kernels.attention import KERNEL_TOLERANCE, REFUSALS, long_range
from swift.kernels.blueprint import Misfit
from swift.kernels.difference import relative
from swift.kernels.paged import Span, Store

TRIAL = ((70, (5, 1, 3)), (9, (2,)), (40, (4, 0)))  # tokens of the sequences of the trial, and their pages
LEAK = 0.1  # of the tolerance, which is for other kernels: what others say may change so much at most


class PagedRunner:
    """Runs what ``runner`` holds.

    Args:
        longest: tokens of the longest sequence.
        pages: bytes of a page to the number of pages.

    Raises:
        Misfit: why the model does not go along.
    """

    def __init__(self, runner: Runner, *, longest: int, pages: Callable[[int], int]):
        self._runner = runner
        self.moving = runner.moving
        if (why := long_range(runner.base, longest)) is not None:
            raise Misfit(why)
        if not runner.accepts('position_ids'):
            raise Misfit('it takes no positions')
        self._store = Store(1 + max(max(held) for _, held in TRIAL), runner.device)
        with torch.inference_mode(), runner.without_adapters():
            self._prove()
        self._store = Store(pages(self._store.page_bytes), runner.device)

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return self._store.count

    def takes(self, adapter: str | None) -> bool:
        """Whether requests with this adapter run here: all do, as the model itself applies it."""
        return True

    # ------------------------------------------------------------------------------------------------------ forward
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits [wanted of all, V] in the order of the chunks, whose adapters must lie together."""
        found = []
        for name, several in groupby(chunks, lambda chunk: chunk.adapter):
            self._runner.use(name)
            found.append(self._pass(list(several)))
        return torch.cat(found)

    def _pass(self, chunks: Sequence[Chunk]) -> Tensor:
        counts = np.array([len(chunk.ids) for chunk in chunks])
        ends = np.cumsum(counts)
        spans = [
            Span(int(end - count), int(count), chunk.start, chunk.pages)
            for chunk, count, end in zip(chunks, counts, ends, strict=True)
        ]
        wanted = np.concatenate([np.arange(end - chunk.wanted, end) for chunk, end in zip(chunks, ends, strict=True)])
        ids = np.concatenate([np.asarray(chunk.ids) for chunk in chunks])
        positions = np.concatenate([np.arange(span.start, span.start + span.count) for span in spans])
        reaches = np.maximum(positions + 1, np.repeat([chunk.reach for chunk in chunks], counts))
        with self._store.passing(self._runner.base, spans), angles.reaching(self._store.index(reaches)[None]):
            return self._runner.rows(ids, positions, wanted)

    def copy_page(self, source: int, to: int) -> None:
        """Let one page hold what another does."""
        self._store.copy_page(source, to)

    # ------------------------------------------------------------------------------------------------------ weights
    def refresh(self) -> None:
        """The weights are the model's own."""

    def learn(self, name: str) -> str | None:
        """The model has the adapter already."""

    def forget(self, name: str) -> None:
        """The model has no such adapter any more."""

    # -------------------------------------------------------------------------------------------------------- trial
    def _prove(self) -> None:
        """Three sequences in pieces, against each by itself; and others in their place, which must change nothing."""
        vocabulary, model = self._runner.vocabulary, self._runner.base
        texts = [(np.arange(size) * 7919 + 13 + at) % vocabulary for at, (size, _) in enumerate(TRIAL)]
        try:
            wanted = self._runner.read(texts[0].tolist())
            found = self._in_pieces(texts)
            moved = self._in_pieces([texts[0], *((text + 1) % vocabulary for text in texts[1:])])
        except REFUSALS as error:
            raise Misfit(f'it does not go along ({type(error).__name__}: {str(error)[:100]})') from error
        if not self._store.page_bytes:
            raise Misfit('it has no attention that goes through the interface')
        allowed = KERNEL_TOLERANCE.get(model.dtype, max(KERNEL_TOLERANCE.values()))
        if not (leak := relative(moved, found)) <= LEAK * allowed:
            raise Misfit(f'a sequence sees others (difference {leak:.1e})')
        if not (difference := relative(found, wanted)) <= allowed:
            raise Misfit(f'in pieces it gives something else (difference {difference:.1e})')

    def _in_pieces(self, texts: Sequence[np.ndarray]) -> Tensor:
        """Logits of the first text, read in three passes beside the others."""
        pages = [np.array(held, np.int32) for _, held in TRIAL]
        piece = lambda at, start, end: Chunk(
            texts[at][start:end], start, pages[at], None, (end - start) * (at == 0), len(texts[at])
        )
        first, second, third = (len(text) for text in texts)
        passes = (
            (piece(0, 0, 33), piece(1, 0, second)),
            (piece(2, 0, third - 1), piece(0, 33, first - 1)),
            (piece(2, third - 1, third), piece(0, first - 1, first)),
        )
        return torch.cat([self._pass(each) for each in passes])
