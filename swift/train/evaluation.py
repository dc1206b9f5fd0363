"""Metrics of a model over evaluation batches: sums over all of them, divided once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from swift.core.types import Batch, Collects, Objective, TrainBackend
from swift.objectives import streams

logger = logging.getLogger(__name__)


def measure(
    backend: TrainBackend,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    reference: streams.Reference | None = None,
) -> dict[str, float]:
    """The metrics of ``objective`` over all batches, each name with ``eval_`` before it; those that are no numbers are
    left out with a warning."""
    forward = lambda several: backend.forward(several, needs=objective.needs)
    sums: dict[str, tuple[float, float]] = {}
    collected: list[Any] = []
    for batch in batches:
        [batch] = streams.filled([batch], objective, forward=forward, reference=reference)
        [outputs] = forward([batch])
        batch = batch.to(backend.device)
        if isinstance(objective, Collects):
            collected.append(objective.collect(outputs, batch))
        for name, (total, count) in objective(outputs, batch).metrics.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + float(total), before[1] + float(count))
    found = {f'eval_{name}': total / max(count, 1e-30) for name, (total, count) in sums.items()}
    if isinstance(objective, Collects) and collected:
        found |= {f'eval_{name}': value for name, value in objective.summary(collected).items()}
    metrics = {name: value for name, value in found.items() if math.isfinite(value)}
    if lost := sorted(found.keys() - metrics.keys()):
        logger.warning('evaluation: %s not finite', ', '.join(lost))
    return metrics
