"""Generalised knowledge distillation: what the teacher thinks of every token, on whoever's completions.

GKD(model, batch):
    for each token t of a completion:  D_t = divergence(teacher(. | x_<t), model(. | x_<t))
    return sum_t w_t (D_t + alpha * -log p(x_t | x_<t) [unless the model wrote x itself])
"""

from __future__ import annotations

import torch

from swift.core.types import Batch, Loss, Outputs
from swift.kernels.divergence import Divergence
from swift.objectives.args import ObjectiveArgs
from swift.objectives.distill_args import DistillArgs

OWN = 'own'
"""Stream bool [T]: tokens that the student wrote itself. Absent: none."""


class Distillation:
    """``L = sum_t w_t (D_t - alpha log p_t) / |{t: w_t != 0}|`` over the tokens of an optimizer step.

    On-policy distillation, arXiv 2306.13649, eq. 2 and algorithm 1, with the mean over the tokens of a step. ``alpha``
    (``sft_alpha``) adds the plain loss where the completion is not the student's own, as ms-swift does. How D is
    measured is the backend's: ``kernels.divergence.Divergence``.
    """

    def __init__(self, *, sft_alpha: float = 0.0):
        self.sft_alpha = sft_alpha
        self.needs = frozenset({'divergence'} | ({'logps'} if sft_alpha else set()))

    def count(self, batch: Batch) -> int:
        return int(torch.count_nonzero(batch.weight))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        total = (batch.weight * outputs.divergence).sum()
        count = (batch.weight != 0).sum()
        metrics = {'divergence': (total.detach(), count)}
        if self.sft_alpha:
            given = batch.weight if OWN not in batch.streams else batch.weight * ~batch.streams[OWN]
            plain = -(given * outputs.logps).sum()
            metrics['sft_loss'] = (plain.detach(), (given != 0).sum())
            total = total + self.sft_alpha * plain
        if OWN in batch.streams:
            metrics['on_policy'] = ((batch.streams[OWN] & (batch.weight != 0)).sum(), count)
        return Loss(total, {'loss': (total.detach(), count), **metrics})


def from_args(args: DistillArgs) -> Distillation:
    """The objective that the flags ask for."""
    return Distillation(sft_alpha=args.sft_alpha)


def divergence(method: ObjectiveArgs, args: DistillArgs) -> Divergence:
    """How far the student is from its teacher, as the flags have it."""
    return Divergence(method.strength, args.temperature, args.gkd_logits_topk)
