"""What an objective needs beside the policy's outputs: the reference's log-probs, and terms over a whole step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from swift.core.types import Batch, Forward, Objective, Prepares

REFERENCE = 'ref_logps'

Reference = Callable[[list[Batch]], list[Tensor]]


def filled(
    step: list[Batch],
    objective: Objective,
    *,
    forward: Forward,
    reference: Reference | None,
    first: Forward | None = None,
) -> list[Batch]:
    """The micro-batches of a step with the streams that ``objective`` needs; nothing here has a gradient.

    Args:
        forward: without dropout.
        first: with the dropout that the step will have; None where it will have none.
    """
    if REFERENCE in objective.needs:
        assert reference is not None, 'an objective that compares with a reference gets one'
        missing = [batch for batch in step if REFERENCE not in batch.streams]
        found = iter(reference(missing) if missing else ())
        step = [
            batch if REFERENCE in batch.streams else replace(batch, streams=batch.streams | {REFERENCE: next(found)})
            for batch in step
        ]
    if isinstance(objective, Prepares):
        more = objective.prepare(step, first if first and objective.repeats else forward, reference)
        step = [replace(batch, streams=batch.streams | each) for batch, each in zip(step, more, strict=True)]
    return step
