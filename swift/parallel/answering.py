"""A model that is being trained, lent to an engine between two steps: the same weights, nothing copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from swift.kernels.switch import attached, plain
from swift.parallel.runner import Runner


@contextmanager
def lent(runner: Runner, changed: AbstractContextManager | None = None) -> Iterator[nn.Module]:
    """Within, the runner's model takes masks and caches as any model of transformers does, and nothing has a gradient.

    Packed attention knows neither, so the model's own stands in; the other kernels stay. ``changed`` is what else is to
    hold meanwhile: other adapters.
    """
    model, training = runner.model, runner.model.training
    packed = [each for each in attached(model) if each.name == 'attention'] if runner.unpacked_reason is None else []
    model.eval()
    try:
        with plain(packed), torch.no_grad(), runner.autocast(), changed or nullcontext():
            yield model
    finally:
        model.train(training)
