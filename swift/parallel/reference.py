"""The reference model of preference methods: log-probs of what the policy started from, or of another model.

An adapter's policy is its own reference with the adapter switched off, or with another one in its place; else a second
model is kept, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from swift.core.types import Batch, Builder
from swift.parallel.one_device import TorchBackend
from swift.parallel.runner import Runner
from swift.parallel.settings import Settings

Reference = Callable[[list[Batch]], list[Tensor]]
"""Log-probs [T] of each batch."""

LOGPS = frozenset({'logps'})
OTHER = 'reference'
"""Name of the adapter that is the reference."""


def switched(backend: TorchBackend, adapter: str | None = None) -> Reference:
    """The policy's own model with its adapters switched off, or with ``adapter`` at work instead."""

    def reference(batches: list[Batch]) -> list[Tensor]:
        backend.check_kernels(batches[0])  # while its adapter is there to be checked
        with other(backend.model, adapter):
            return [outputs.logps for outputs in backend.forward(batches, needs=LOGPS)]

    return reference


def frozen(builder: Builder, settings: Settings) -> Reference:
    """A model of its own that never changes."""
    runner = frozen_runner(builder, settings)

    @torch.no_grad()
    def reference(batches: list[Batch]) -> list[Tensor]:
        return [runner.outputs(batch.to(runner.device), LOGPS).logps for batch in batches]

    return reference


def frozen_runner(builder: Builder, settings: Settings) -> Runner:
    """A model beside the one that is trained, in memory and ready to read batches; it never changes."""
    model = builder.build().requires_grad_(False)
    if not getattr(model, 'is_quantized', False):
        model.to(settings.device)
    return Runner(model.eval(), replace(settings, neftune_alpha=0.0))


@contextmanager
def other(model: nn.Module, adapter: str | None) -> Iterator[None]:
    """``model`` without its adapter, or with another, for a while."""
    if adapter is None:
        with model.disable_adapter():  # type: ignore[operator]
            yield
        return
    before = model.active_adapter
    model.set_adapter(adapter)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_adapter(before)  # type: ignore[operator]
