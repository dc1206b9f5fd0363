"""Next-token prediction: supervised fine-tuning and pre-training. What is trained on is data, in ``batch.weight``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from swift.core.types import Batch, Loss, Outputs


class NextToken:
    """Weighted cross-entropy of the next token.

    ``L = - sum_t w_t log p(x_t | x_<t) / |{t: w_t != 0}|``, the sum over the tokens of an optimizer step. The
    divisor counts targets, not weights, as the ecosystem does: a loss_scale of 2 doubles a token's pull.
    """

    needs = frozenset({'logps', 'correct'})

    def __init__(self, *, accuracy: Literal['token', 'seq'] = 'token'):
        """``accuracy`` counts right tokens, or sequences whose every target is right."""
        self.accuracy = accuracy

    def count(self, batch: Batch) -> int:
        return int(torch.count_nonzero(batch.weight))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        targets = batch.weight != 0  # [T]
        total = -(batch.weight * outputs.logps).sum()
        count = targets.sum()
        return Loss(total, {'loss': (total.detach(), count), f'{self.accuracy}_acc': self._accuracy(outputs, batch)})

    def _accuracy(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """(right, counted) tokens, or sequences that have a target."""
        targets = batch.weight != 0  # [T]
        right = targets & outputs.correct  # [T]
        if self.accuracy == 'token':
            return right.sum(), targets.sum()
        per_sequence = lambda flags: torch.stack([part.sum() for part in flags.split(batch.segments.lengths)])  # [N]
        wanted, found = per_sequence(targets), per_sequence(right)
        return ((wanted == found) & (wanted > 0)).sum(), (wanted > 0).sum()
