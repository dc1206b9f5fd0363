"""The worst batch first: the largest micro-batch of a run goes forward and backward before the first step.

Memory that would run out hours later runs out at once. Gradients are dropped and random generators put back, the order
of the data is not touched: the run is the same to the last bit, with and without.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

from swift.core.types import Batch, Objective, TrainBackend
from swift.train import state

logger = logging.getLogger(__name__)

NEAR = 0.8
"""The part of the memory above which a run on the CPU is rehearsed, and activations are made again by themselves."""
FEW = 20
"""A run of fewer steps is not rehearsed by itself: it soon knows."""


def wanted(asked: bool | None, *, device: str, steps: int, share: float | None) -> bool:
    """Whether a run is rehearsed: as asked, else on an accelerator, and on a CPU whose memory may get scarce.

    Args:
        asked: ``--rehearse``.
        share: the part of the memory that the plan foresees to be taken; None where nothing was foreseen.
    """
    if asked is not None:
        return asked
    return steps >= FEW and (device != 'cpu' or (share or 0.0) > NEAR)


def rehearse(
    backend: TrainBackend,
    objective: Objective,
    micro: list[Batch],
    fill: Callable[[list[Batch], Objective], list[Batch]],
) -> None:
    """Run ``micro`` forward and backward without a trace.

    Args:
        micro: the largest micro-batch of the run, behind another one of its step if there is one.
        fill: puts the streams that an objective needs into batches.
    """
    logger.info('rehearsal: the largest micro-batch, %s tokens', f'{len(micro[-1].input_ids):,}')
    apart, (tensors, data) = copy.deepcopy(objective), state.random_state()
    try:
        backend.rehearse(lambda: fill(micro, apart), apart)
    finally:
        state.set_random_state(tensors, data)
