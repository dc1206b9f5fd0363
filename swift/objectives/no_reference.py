"""CPO, SimPO and ORPO: preference without a reference model, held in place by the next-token loss of chosen answers.

Goes in: a batch of pairs with the policy's log-probabilities. Comes out: the sum of the losses of its pairs.

Shapes: ``N`` sequences, ``P`` pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Batch, Forward, Loss, Outputs
from swift.objectives import pairs
from swift.objectives.args import ObjectiveArgs
from swift.objectives.preference import smoothed
from swift.objectives.stepwide import Reference

CERTAIN = -1e-6  # the largest mean log-probability whose odds are computed: at 0 they are infinite


def sigmoid(gap: Tensor, how: Contrast) -> Tensor:
    """-log s(beta g), with smoothed labels.  CPO, arXiv 2401.08417, eq. 3 with a uniform reference"""
    return smoothed(how.beta * gap, how.label_smoothing)


def hinge(gap: Tensor, how: Contrast) -> Tensor:
    """max(0, 1 - beta g).  SLiC, arXiv 2305.10425, sec. 2"""
    return torch.relu(1 - how.beta * gap)


def ipo(gap: Tensor, how: Contrast) -> Tensor:
    """(g - 1/(2 beta))^2, g per token.  arXiv 2310.12036, eq. 17 with a uniform reference"""
    return (gap - 1 / (2 * how.beta)) ** 2


def simpo(gap: Tensor, how: Contrast) -> Tensor:
    """-log s(beta g - gamma), g per token, with smoothed labels.  SimPO, arXiv 2405.14734, eq. 6"""
    return smoothed(how.beta * gap - how.gamma, how.label_smoothing)


class Rule(NamedTuple):
    """A loss of g = log pi(y_w|x) - log pi(y_l|x), [P]; ``per_token``: each divided by the answer's tokens."""

    loss: Callable[[Tensor, Contrast], Tensor]
    per_token: bool = False


LOSSES: dict[str, Rule] = {
    'sigmoid': Rule(sigmoid),
    'hinge': Rule(hinge),
    'ipo': Rule(ipo, per_token=True),
    'simpo': Rule(simpo, per_token=True),
}


@dataclass(kw_only=True)
class Contrast:
    """mean over pairs of a loss of ``LOSSES`` + alpha x next-token loss of the chosen answers.

    CPO, arXiv 2401.08417, eq. 5. SimPO has alpha 0 in its paper; the established programs add alpha = 1 to it too
    (CPO-SimPO), and so does ``--rlhf_type simpo``. The next-token loss is a mean over the tokens of the optimizer step.
    """

    loss: str = 'sigmoid'
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 1.0
    alpha: float = 1.0
    needs = frozenset({'logps', 'correct'})
    repeats = False

    def count(self, batch: Batch) -> int:
        return pairs.count(batch)

    def prepare(
        self, step: list[Batch], forward: Forward, reference: Reference | None = None
    ) -> list[dict[str, Tensor]]:
        """The stream of ``pairs.nll``."""
        return pairs.tokens_per_pair(step)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        rule = LOSSES[self.loss]
        logp = batch.per_sequence(outputs.logps)  # [N]
        if rule.per_token:
            logp = logp / pairs.lengths(batch)
        losses, nll = rule.loss(logp[0::2] - logp[1::2], self), pairs.nll(outputs, batch)
        total = losses.sum() + (self.alpha * nll.sum() if self.alpha else 0)
        return _told(total, logp, nll, self.beta, outputs, batch)


@dataclass(kw_only=True)
class Orpo:
    """next-token loss of chosen answers - lambda mean log s(log odds(y_w|x) - log odds(y_l|x)).

    odds = p / (1 - p), log p = log pi(y|x) / |y|.  ORPO, arXiv 2403.07691, eq. 3, 4, 6 and 7; lambda is ``beta``. The
    next-token loss is of the answer, as the paper has it; TRL takes the prompt's tokens in.
    """

    beta: float = 0.1
    needs = frozenset({'logps', 'correct'})
    repeats = False

    def count(self, batch: Batch) -> int:
        return pairs.count(batch)

    def prepare(
        self, step: list[Batch], forward: Forward, reference: Reference | None = None
    ) -> list[dict[str, Tensor]]:
        """The stream of ``pairs.nll``."""
        return pairs.tokens_per_pair(step)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        logp = batch.per_sequence(outputs.logps) / pairs.lengths(batch)  # [N]
        odds = log_odds(logp)
        gap, nll = odds[0::2] - odds[1::2], pairs.nll(outputs, batch)
        won = F.logsigmoid(gap)
        told = _told(nll.sum() - self.beta * won.sum(), logp, nll, self.beta, outputs, batch)
        told.metrics |= {'log_odds_ratio': pairs.total(won), 'log_odds_chosen': pairs.total(gap)}
        return told


def log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, exact for p near 0 and near 1, finite for p = 1."""
    log_p = log_p.clamp(max=CERTAIN)
    return log_p - torch.log(-torch.expm1(log_p))


def _told(total: Tensor, logp: Tensor, nll: Tensor, beta: float, outputs: Outputs, batch: Batch) -> Loss:
    """A loss with the metrics of its kin; rewards are beta log p."""
    return Loss(
        total,
        {
            'loss': (total.detach(), total.new_tensor(len(nll))),
            'nll_loss': pairs.total(nll),
            **pairs.reward_metrics(beta * logp[0::2], beta * logp[1::2]),
            'logps/chosen': pairs.total(logp[0::2]),
            'logps/rejected': pairs.total(logp[1::2]),
            'mean_token_accuracy': pairs.token_accuracy(outputs, batch),
        },
    )


def contrast(args: ObjectiveArgs) -> Contrast:
    """The objective of ``--rlhf_type cpo`` and ``simpo``."""
    return Contrast(
        loss=next(iter(args.losses)),
        beta=args.strength,
        label_smoothing=args.label_smoothing,
        gamma=args.simpo_gamma,
        alpha=args.cpo_alpha,
    )


def orpo(args: ObjectiveArgs) -> Orpo:
    """The objective of ``--rlhf_type orpo``."""
    return Orpo(beta=args.strength)
