"""Pairs of answers to one prompt, as the losses of preference see them: a few numbers per pair.

A token belongs to an answer where its weight is not 0; how large the weight is matters to the next-token loss only.

Shapes: ``T`` tokens, ``N`` sequences, ``P`` pairs. In a batch of pairs the sequences are chosen, rejected, chosen, ...
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swift.core.types import Batch, Outputs

Metrics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs: y_w the chosen and y_l the rejected answer to x. Every field is [P]."""

    chosen: Tensor  # log pi(y_w | x)
    rejected: Tensor  # log pi(y_l | x)
    ref_chosen: Tensor  # log pi_ref(y_w | x), 0 without a reference
    ref_rejected: Tensor
    chosen_length: Tensor  # tokens of the answer, at least 1
    rejected_length: Tensor

    @classmethod
    def of(cls, policy: Tensor, reference: Tensor, lengths: Tensor) -> Pairs:
        """From numbers per sequence, [N] each."""
        return cls(*(half for values in (policy, reference, lengths) for half in (values[0::2], values[1::2])))

    @property
    def chosen_ratio(self) -> Tensor:
        """log pi(y_w | x) - log pi_ref(y_w | x)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """log pi(y_l | x) - log pi_ref(y_l | x)."""
        return self.rejected - self.ref_rejected


def count(batch: Batch) -> int:
    """P: the divisor of every loss of pairs."""
    sequences = len(batch.segments.leaves)
    assert set(batch.groups) == {2} and sequences % 2 == 0, f'not a batch of pairs: groups {batch.groups}'
    return sequences // 2


def lengths(batch: Batch) -> Tensor:
    """Tokens of each answer, at least 1: [N]."""
    return batch.per_sequence((batch.weight != 0).to(batch.weight.dtype)).clamp(min=1)


def tokens_per_pair(step: list[Batch]) -> list[dict[str, Tensor]]:
    """The stream that ``nll`` needs: the mean length of the chosen answers of the optimizer step, for each sequence."""
    chosen = [lengths(batch)[0::2] for batch in step]
    mean = torch.stack([part.sum() for part in chosen]).sum() / sum(len(part) for part in chosen)
    return [{'tokens_per_pair': mean.expand(2 * len(part))} for part in chosen]


def nll(outputs: Outputs, batch: Batch) -> Tensor:
    """Next-token loss of the chosen answers, [P]; its mean over the pairs of the step is that over their tokens."""
    total = -batch.per_sequence(batch.weight * outputs.logps)[0::2]
    return total / batch.streams['tokens_per_pair'][0::2]


def reward_metrics(chosen: Tensor, rejected: Tensor) -> Metrics:
    """What is told about implicit rewards, [P] each."""
    chosen, rejected = chosen.detach(), rejected.detach()
    return {
        'rewards/chosen': total(chosen),
        'rewards/rejected': total(rejected),
        'rewards/accuracies': total((chosen > rejected).to(chosen.dtype)),
        'rewards/margins': total(chosen - rejected),
    }


def token_accuracy(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """Tokens of chosen answers that are the most likely ones, and all of them."""
    answer = batch.weight != 0
    right = batch.per_sequence((answer & outputs.correct).to(batch.weight.dtype))[0::2]
    return right.sum(), batch.per_sequence(answer.to(batch.weight.dtype))[0::2].sum()


def total(values: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of a metric."""
    return values.detach().sum(), values.new_tensor(len(values))
