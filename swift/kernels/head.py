"""The output head's place in a model: hidden states are taken before it, so that logits need never exist as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from swift.kernels.difference import relative
from swift.kernels.logprobs import Head

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest relative difference between a model's own logits and those of ``Head`` that is taken for rounding."""
PROBE = 7  # tokens


class Tap:
    """Takes the hidden states that enter the output head of a model.

    While ``open`` the head returns nothing (a tensor of width 0), so whatever the model does to logits after it costs
    nothing; what that is, ``Head`` does instead, and ``tap`` has seen that it does the same.
    """

    def __init__(self, linear: nn.Linear, *, scale: float, cap: float | None):
        self._linear, self._scale, self._cap = linear, scale, cap
        self.hidden: Tensor | None = None

    @property
    def head(self) -> Head:
        return Head(self._linear.weight, self._linear.bias, self._scale, self._cap)

    @contextmanager
    def open(self) -> Iterator[Tap]:
        """Within, a forward pass of the model leaves the last hidden states in ``hidden``."""
        self._linear.forward = self._take  # type: ignore[method-assign]
        try:
            yield self
        finally:
            del self._linear.forward
            self.hidden = None

    def _take(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        return hidden[..., :0]


def tap(model: PreTrainedModel) -> Tap | str:
    """A tap on the head of ``model``, or why it has none."""
    linear: Any = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        return f'its output head is {type(linear).__name__}'
    config = model.config.get_text_config()
    ids = torch.arange(PROBE, device=linear.weight.device)[None] * 31 % config.vocab_size
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits[0]
            for scale, cap in _transforms(config):
                made = Tap(linear, scale=scale, cap=cap)
                with made.open():
                    model(input_ids=ids, use_cache=False)
                    assert made.hidden is not None
                    found = made.head.logits(made.hidden[0])
                if relative(found, expected) <= TOLERANCE[expected.dtype]:
                    return made
    finally:
        model.train(training)
    return 'it changes its logits in a way of its own'


def _transforms(config: Any) -> list[tuple[float, float | None]]:
    """(scale, cap) of logits that architectures use, the plain one last: Gemma's cap, Cohere's and Granite's scale."""
    found: list[tuple[float, float | None]] = []
    if cap := getattr(config, 'final_logit_softcapping', None):
        found.append((1.0, float(cap)))
    if scale := getattr(config, 'logit_scale', None):
        found.append((float(scale), None))
    if divisor := getattr(config, 'logits_scaling', None):
        found.append((1.0 / float(divisor), None))
    return [*found, (1.0, None)]
