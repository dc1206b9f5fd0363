"""The teacher of a distillation: what it says of the targets of a batch, for ``Outputs.divergence``.

It is a second model that never changes, the student's own model with another adapter or none, or a server that names
the likeliest tokens (``parallel.remote``). It says hidden states and its head, never logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swift.core.types import Batch
from swift.kernels.divergence import Divergence, Named, Predictions
from swift.parallel import reference
from swift.parallel.one_device import TorchBackend

Says = Callable[[Batch], Predictions | Named]
"""What comes next at each of the S targets of a batch, in their order; S rounded up to ``layout.ROUND``."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Set as ``runner.teacher``. ``how`` measures the distance of the student from what the teacher ``says``."""

    says: Says
    how: Divergence

    def __call__(self, batch: Batch) -> Predictions | Named:
        return self.says(batch)


def switched(backend: TorchBackend, adapter: str | None = None) -> Says:
    """The student's own model with its adapters switched off, or with ``adapter`` at work instead."""

    def says(batch: Batch) -> Predictions:
        training = backend.model.training
        backend.model.eval()
        try:
            with reference.other(backend.model, adapter):
                return backend.runner.predictions(batch)
        finally:
            backend.model.train(training)

    return says
