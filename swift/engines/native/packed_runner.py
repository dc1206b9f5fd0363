"""The model's forward pass over rows of many sequences at once, by ``kernels.decoder``.

Adapters of plain LoRA are applied row by row; which adapters those are is found by trial too.

Shapes: ``T`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from swift.engines.native import adapters
from swift.engines.native.runner import Runner
from swift.kernels import blueprint, decoder
from swift.kernels.blueprint import Misfit
from swift.kernels.decoder import ROWS, Adapter, Decoder, Linear, Rows


@dataclass(slots=True)
class Chunk:
    """Tokens of one sequence that go through the model: ``ids`` at positions from ``start`` on.

    ``pages`` int32: where keys and values of the whole sequence lie. ``wanted``: the last so many rows give logits.
    ``reach``: the length that the angles of the tokens within it are chosen by; those beyond have their own.
    """

    ids: Sequence[int]
    start: int
    pages: np.ndarray
    adapter: str | None
    wanted: int
    reach: int


class PackedRunner:
    """Decodes what ``runner`` holds, from copies of its weights.

    Args:
        longest: tokens of the longest sequence.
        pages: bytes of a page to the number of pages.

    Raises:
        Misfit: the model is no decoder that the kernel computes.
    """

    def __init__(self, runner: Runner, *, longest: int, pages: Callable[[int], int]):
        self._runner, self._longest = runner, longest
        self.moving = runner.moving
        self._adapters: dict[str, Adapter] = {}
        self.decoder = self._draw(pages)
        for name in runner.adapters:
            self.learn(name)

    def _draw(self, pages: Callable[[int], int] | Tensor) -> Decoder:
        with self._runner.without_adapters():
            return blueprint.draw(self._runner.base, longest=self._longest, pages=pages)

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return self.decoder.pages.shape[1]

    def takes(self, adapter: str | None) -> bool:
        """Whether requests with this adapter run here."""
        return adapter is None or adapter in self._adapters

    # ------------------------------------------------------------------------------------------------------ forward
    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits [wanted of all, V] in the order of the chunks, whose adapters must lie together."""
        ids: list[int] = []
        spans: list[tuple[int, int, Adapter]] = []
        starts: list[int] = []
        for name, several in groupby(chunks, lambda chunk: chunk.adapter):
            begin = len(ids)
            for chunk in several:
                starts.append(len(ids))
                ids += chunk.ids
            ids += [0] * (-len(ids) % ROWS)  # an adapter's rows are its own
            if name is not None:
                spans.append((begin, len(ids), self._adapters[name]))
        counts = [len(chunk.ids) for chunk in chunks]
        firsts = np.array(starts)
        owner = np.full(len(ids), -1)
        owner[_ranges(firsts, np.array(counts))] = np.repeat(np.arange(len(chunks)), counts)
        held = [chunk.pages for chunk in chunks]
        pages_at = np.cumsum([0, *map(len, held)])[:-1]
        sequences = np.stack([firsts, counts, [chunk.start for chunk in chunks], pages_at], 1)
        wanted = np.array([chunk.wanted for chunk in chunks])
        rows = Rows(
            owner=owner,
            sequences=sequences,
            reaches=np.array([chunk.reach for chunk in chunks]),
            pages=np.concatenate(held),
            wanted=_ranges(firsts + np.array(counts) - wanted, wanted),
            spans=spans,
        )
        embedded = F.embedding(torch.tensor(ids), self.decoder.is_.embedding)
        return self.decoder.step(embedded, rows)

    def copy_page(self, source: int, to: int) -> None:
        """Let one page hold what another does."""
        self.decoder.pages[:, to] = self.decoder.pages[:, source]

    # ------------------------------------------------------------------------------------------------------ weights
    def refresh(self) -> None:
        """Take the weights as they are now."""
        self.decoder.refresh()
        for name in list(self._adapters):
            self.learn(name)

    def learn(self, name: str) -> str | None:
        """Run requests with this adapter here. Returns None, or why they cannot: it is more than terms for rows."""
        self.forget(name)
        try:
            self._redraw_if_grown()
            self._adapters[name] = self._adapter(name)
        except Misfit as why:
            return str(why)
        return None

    def forget(self, name: str) -> None:
        """An adapter is gone."""
        self._adapters.pop(name, None)

    def _redraw_if_grown(self) -> None:
        """An adapter may bring tokens of its own, and rows of embeddings for them."""
        if self._runner.vocabulary != self.decoder.is_.vocabulary:
            self.decoder = self._draw(self.decoder.pages)

    def _adapter(self, name: str) -> Adapter:
        inner = self._runner.inner(name)
        added = adapters.low_rank_terms(self._runner.model, inner)
        is_ = self.decoder.is_
        made = Adapter(len(is_.layers))
        for at, layer in enumerate(is_.layers):
            groups = {'qkv': layer.qkv, 'out': [layer.out], 'gate_up': layer.gate_up, 'down': [layer.down]}
            for group, linears in groups.items():
                terms = [(each, added.pop(each.module)) for each in linears if each.module in added]
                if terms:
                    made.put(at, group, *self._pack(group, linears, terms))
        if added:
            raise Misfit(f'it adds to {len(added)} modules that are no linear layer of a decoder layer')
        return made

    def _pack(self, group: str, linears: Sequence[Linear], terms: list[tuple[Linear, adapters.Term]]) -> Any:
        """All terms of a group as one: their ranks end to end, each going up to the outputs of its own layer."""
        dtype = self.decoder.is_.dtype
        total = sum(len(term.a) for _, term in terms)
        down = decoder.empty(-(-total // decoder.PANEL), self.decoder.inputs(group), dtype, bias=False)
        up = decoder.empty(self.decoder.panels(group), total, dtype, bias=False)
        decoder.fill(down, torch.cat([term.a.to(dtype) for _, term in terms]), decoder.Place(0, decoder.PANEL, 0))
        places, sizes, at = self.decoder.places(group), self.decoder.sizes(group), 0
        for linear, term in terms:
            scaled = (term.b.float() * term.scale).to(dtype)
            whole = len(linears) != len(sizes)  # one layer gives what the kernel sees as several
            parts = scaled.split(list(sizes)) if whole else [scaled]
            for part, place in zip(parts, places if whole else [places[linears.index(linear)]], strict=True):
                decoder.fill(up, part, place, input=at)
            at += len(term.a)
        return down, up


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of each."""
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return offsets + np.arange(int(counts.sum()))
