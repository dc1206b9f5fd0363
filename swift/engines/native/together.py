"""Prompts answered together in the thread that asks: for training, where a step run twice must give the same answers.

There is no queue that requests arrive at by chance: all are there before the first token, so that batches, and with
them the rounding of logits, are a function of the requests alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from swift.core.types import Piece, Request
from swift.engines.native.runner import Runner
from swift.engines.native.scheduler import Limits, Scheduler


def answer(
    model: nn.Module, requests: Sequence[Request], *, stop_ids: Iterable[int], limits: Limits
) -> list[tuple[int, ...]]:
    """Ids of each answer, its stop token included.

    Args:
        model: in memory, in its evaluation mode, with the adapters that are to answer at work.
        requests: with a seed each, where they draw; their ids differ.

    Raises:
        SwiftError: what a request failed with.
    """
    found: dict[str, list[int]] = {request.id: [] for request in requests}
    scheduler = Scheduler(
        Runner(model, choose_adapters=False),
        decode=lambda ids: '',  # nobody reads along
        stop_ids=frozenset(stop_ids),
        limits=limits,
        generator=torch.Generator(next(model.parameters()).device),
    )

    def listen(to: list[int]) -> Any:
        def deliver(item: Piece | BaseException | None) -> None:
            if isinstance(item, BaseException):
                failed.append(item)
            elif item is not None:
                to.extend(item.ids)

        return deliver

    failed: list[BaseException] = []
    with torch.no_grad():
        for request in requests:
            scheduler.add(request, listen(found[request.id]))
        while scheduler.busy and not failed:
            scheduler.step()
    if failed:
        raise failed[0]
    return [tuple(found[request.id]) for request in requests]
