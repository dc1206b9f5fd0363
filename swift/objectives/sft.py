"""Next-token prediction: supervised fine-tuning and pre-training. What is trained on is data, in ``batch.weight``."""

from __future__ import annotations

import torch

from swift.core.types import Batch, Loss, Outputs


class NextToken:
    """Weighted cross-entropy of the next token.

    ``L = - sum_t w_t log p(x_t | x_<t) / |{t: w_t != 0}|``, the sum over the tokens of an optimizer step. The
    divisor counts targets, not weights, as the ecosystem does: a loss_scale of 2 doubles a token's pull.
    """

    needs = frozenset({'logps', 'correct'})

    def count(self, batch: Batch) -> int:
        return int(torch.count_nonzero(batch.weight))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        targets = batch.weight != 0  # [T]
        total = -(batch.weight * outputs.logps).sum()
        count = targets.sum()
        correct = (outputs.correct & targets).sum() if outputs.correct is not None else torch.zeros_like(count)
        return Loss(total, {'loss': (total.detach(), count), 'token_acc': (correct, count)})
