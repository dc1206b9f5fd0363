"""Next-token prediction: supervised fine-tuning and pre-training. What is trained on is data, in ``batch.weight``.

Shapes: ``T`` tokens, ``N`` sequences, ``C`` channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from swift.core.types import Batch, Loss, Outputs


class NextToken:
    """Weighted cross-entropy of the next token.

    ``L = - sum_t w_t log p(x_t | x_<t) / |{t: w_t != 0}|``, the sum over the tokens of an optimizer step. The
    divisor counts targets, not weights, as the ecosystem does: a loss_scale of 2 doubles a token's pull.

    With ``dft`` each token is weighted by its own probability too, which has no gradient: ``- w_t sg(p_t) log p_t``.
    Dynamic fine-tuning takes the 1 / p_t out of the gradient of cross-entropy.  arXiv 2508.05629, eq. 9
    """

    needs = frozenset({'logps', 'correct'})

    def __init__(self, *, accuracy: Literal['token', 'seq'] = 'token', dft: bool = False, by_channel: bool = False):
        """``accuracy`` counts right tokens, or sequences whose every target is right.

        ``by_channel`` reports the loss of each kind of rows as ``loss_<channel>``; of rows that name none as
        ``loss_None``, the established name.
        """
        self.accuracy, self.dft, self.by_channel = accuracy, dft, by_channel

    def count(self, batch: Batch) -> int:
        return int(torch.count_nonzero(batch.weight))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        losses = -batch.weight * outputs.logps  # [T]
        if self.dft:
            losses = losses * outputs.logps.detach().exp()
        total = losses.sum()
        count = (batch.weight != 0).sum()
        metrics = {'loss': (total.detach(), count), f'{self.accuracy}_acc': self._accuracy(outputs, batch)}
        if self.by_channel:
            metrics |= channel_losses(losses.detach(), batch)
        return Loss(total, metrics)

    def _accuracy(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        """(right, counted) tokens, or sequences that have a target."""
        targets = batch.weight != 0  # [T]
        right = targets & outputs.correct  # [T]
        if self.accuracy == 'token':
            return right.sum(), targets.sum()
        per_sequence = lambda flags: torch.stack([part.sum() for part in flags.split(batch.segments.lengths)])  # [N]
        wanted, found = per_sequence(targets), per_sequence(right)
        return ((wanted == found) & (wanted > 0)).sum(), (wanted > 0).sum()


def channel_losses(losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """(sum, targets) of losses per token [T] for each channel that a sequence of the batch belongs to.

    The sums of all channels add up to that of the batch, and so do the counts.
    """
    channels = batch.channels or (None,) * len(batch.segments.lengths)  # [N]
    names = sorted(set(channels), key=str)
    number = {name: i for i, name in enumerate(names)}
    lengths = torch.tensor(batch.segments.lengths)
    of = torch.tensor([number[each] for each in channels]).repeat_interleave(lengths).to(losses.device)  # [T]
    sums = losses.new_zeros(len(names)).index_add_(0, of, losses)  # [C]
    counts = losses.new_zeros(len(names)).index_add_(0, of, (batch.weight != 0).to(losses.dtype))
    return {f'loss_{name}': (sums[i], counts[i]) for name, i in number.items()}
