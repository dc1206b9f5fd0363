"""Reward models: a head scores sequences so that answers that people prefer score higher.

Goes in: a batch of pairs, or of solutions cut into steps, with a score per sequence. Comes out: the sum of the losses.

Shapes: ``N`` sequences, ``P`` pairs; scores are [N, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from swift.core.types import Batch, Loss, Outputs
from swift.objectives import pairs
from swift.objectives.args import ObjectiveArgs
from swift.objectives.pairs import total


@dataclass(kw_only=True)
class BradleyTerry:
    """-log s(s_w - s_l - m) + c (s_w + s_l)^2, the mean over pairs.

    InstructGPT, arXiv 2203.02155, eq. 1; m is the margin of a row that has one: Llama 2, arXiv 2307.09288, eq. 2; the
    last term holds the mean score at 0: arXiv 2312.09244, eq. 2. Evaluation adds the least and the largest score.
    """

    centering: float = 0.0
    needs = frozenset({'scores'})

    def count(self, batch: Batch) -> int:
        return pairs.count(batch)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        scores = outputs.scores[:, 0]
        won, lost = scores[0::2], scores[1::2]
        margin = scores.new_tensor([label[0] if label else 0.0 for label in batch.labels]) if batch.labels else 0.0
        losses = -F.logsigmoid(won - lost - margin) + self.centering * (won + lost) ** 2
        return Loss(
            losses.sum(),
            {
                'loss': total(losses),
                'accuracy': total((won > lost).to(scores.dtype)),
                'margin': total(won - lost),
                'mean_reward': total(scores),
                'rewards/chosen': total(won),
                'rewards/rejected': total(lost),
            },
        )

    def collect(self, outputs: Outputs, batch: Batch) -> tuple[float, float]:
        """The least and the largest score of a batch."""
        least, largest = outputs.scores.aminmax()
        return float(least), float(largest)

    def summary(self, collected: Sequence[tuple[float, float]]) -> dict[str, float]:
        """The same of all batches."""
        least, largest = zip(*collected, strict=True)
        return {'min_reward': min(least), 'max_reward': max(largest)}


@dataclass(kw_only=True)
class StepRewards:
    """-y log s(r) - (1 - y) log s(-r), the mean over steps: r the score of a solution cut after a step, y its label.

    Math-Shepherd, arXiv 2312.08935; y is 1 or 0, or the share of continuations that came out right. A row is a
    group whose sequences are one solution cut after its first, second, ... step, so each begins with those before it.
    """

    needs = frozenset({'scores'})

    def count(self, batch: Batch) -> int:
        return len(batch.segments.leaves)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        scores = outputs.scores[:, 0]
        labels = scores.new_tensor([label for row in batch.labels for label in row])  # [N]
        losses = F.binary_cross_entropy_with_logits(scores, labels, reduction='none')
        right = (scores > 0) == (labels > 0.5)
        return Loss(
            losses.sum(),
            {
                'loss': total(losses),
                'accuracy': total(right.to(scores.dtype)),
                'mean_reward': total(torch.sigmoid(scores)),
            },
        )


def from_args(args: ObjectiveArgs) -> BradleyTerry:
    """The objective of ``--rlhf_type rm``."""
    return BradleyTerry(centering=args.center_rewards_coefficient or 0.0)


def steps(args: ObjectiveArgs) -> StepRewards:
    """The objective of process-reward rows, which has no strengths to set."""
    return StepRewards()
