"""DPO and its family: the policy is moved from its reference so that chosen answers gain on rejected ones.

Goes in: a batch of pairs with log-probabilities of policy and reference. Comes out: the sum of the losses of its pairs.
``LOSSES`` is the family, one function each; ``Preference`` mixes any of them. With u = pi(y|x) / pi_ref(y|x), the
letters are h = f'(u_w) - f'(u_l), which is log u_w - log u_l unless another divergence is chosen, and r = beta log u.

Shapes: ``T`` tokens, ``N`` sequences, ``P`` pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.core.types import Batch, Forward, Loss, Outputs
from swift.objectives import pairs, stepwide
from swift.objectives.args import ObjectiveArgs
from swift.objectives.pairs import Pairs
from swift.objectives.stepwide import Reference

LARGEST_EXPONENT = 40.0  # e^40 squared is still a float32
EXO_SMOOTHING = 1e-3  # what the EXO paper takes; at 0 its loss is infinite


# ---------------------------------------------------------------------------------------------------------- divergences
def alpha_divergence(log_u: Tensor, alpha: float) -> Tensor:
    """f'(u) = (u^(alpha - 1) - 1) / (alpha - 1), log u at alpha = 1.  f-DPO, arXiv 2309.16240, table 1

    alpha 0 is the forward and 1 the reverse KL divergence. The exponent is cut at 40, far beyond any use.
    """
    if abs(alpha - 1) < 1e-6:
        return log_u
    return torch.expm1(((alpha - 1) * log_u).clamp(max=LARGEST_EXPONENT)) / (alpha - 1)


DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    'reverse_kl': lambda log_u, alpha: log_u,
    'forward_kl': lambda log_u, alpha: alpha_divergence(log_u, 0.0),
    'js_divergence': lambda log_u, alpha: math.log(2) + F.logsigmoid(log_u),
    'alpha_divergence': alpha_divergence,
}
"""f'(u) of each f-divergence, from log u and the coefficient alpha.  arXiv 2309.16240, table 1"""


# --------------------------------------------------------------------------------------------------------------- losses
def smoothed(z: Tensor, epsilon: float) -> Tensor:
    """-(1 - e) log s(z) - e log s(-z): labels are wrong with probability e.  cDPO, ericmitchell.ai/cdpo.pdf"""
    loss = -F.logsigmoid(z)
    return loss if epsilon == 0 else (1 - epsilon) * loss - epsilon * F.logsigmoid(-z)


def sigmoid(p: Pairs, how: Preference) -> Tensor:
    """-log s(beta h), with smoothed labels as cDPO.  DPO, arXiv 2305.18290, eq. 7"""
    return smoothed(how.beta * how.gap(p), how.label_smoothing)


def sigmoid_norm(p: Pairs, how: Preference) -> Tensor:
    """-log s(beta (f'(u_w)/|y_w| - f'(u_l)/|y_l|)): length-normalised DPO.  Tulu 3, arXiv 2411.15124, sec. 5.1"""
    return smoothed(how.beta * how.gap(p, per_token=True), how.label_smoothing)


def hinge(p: Pairs, how: Preference) -> Tensor:
    """max(0, 1 - beta h).  RSO, arXiv 2309.06657 (SLiC, arXiv 2305.10425, with a reference)"""
    return torch.relu(1 - how.beta * how.gap(p))


def ipo(p: Pairs, how: Preference) -> Tensor:
    """(h - 1/(2 beta))^2, h averaged per token as the authors confirmed to TRL.  arXiv 2310.12036, eq. 17"""
    return (how.gap(p, per_token=True) - 1 / (2 * how.beta)) ** 2


def robust(p: Pairs, how: Preference) -> Tensor:
    """(-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2e): unbiased if labels are flipped with probability e.

    rDPO, arXiv 2403.00409, sec. 3.1
    """
    z, epsilon = how.beta * how.gap(p), how.label_smoothing
    return (-(1 - epsilon) * F.logsigmoid(z) + epsilon * F.logsigmoid(-z)) / (1 - 2 * epsilon)


def exo_pair(p: Pairs, how: Preference) -> Tensor:
    """KL((s(beta h), s(-beta h)) || (1 - e, e)), e = 0.001 unless labels are smoothed.  arXiv 2402.00856, eq. 16"""
    z, epsilon = how.beta * how.gap(p), how.label_smoothing or EXO_SMOOTHING
    won = torch.sigmoid(z) * (F.logsigmoid(z) - math.log1p(-epsilon))
    return won + torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(epsilon))


def nca_pair(p: Pairs, how: Preference) -> Tensor:
    """-log s(r_w) - log s(-r_w)/2 - log s(-r_l)/2.  NCA for pairs, arXiv 2402.05369, sec. 4.1"""
    won, lost = how.rewards(p)
    return -F.logsigmoid(won) - F.logsigmoid(-won) / 2 - F.logsigmoid(-lost) / 2


def bco_pair(p: Pairs, how: Preference) -> Tensor:
    """-log s(r_w) - log s(-r_l): a binary classifier of answers.  BCO, arXiv 2404.04656, sec. 4

    The paper subtracts a running mean of rewards from both; TRL left it out with 1.0, and so it is here.
    """
    won, lost = how.rewards(p)
    return -F.logsigmoid(won) - F.logsigmoid(-lost)


def sppo_hard(p: Pairs, how: Preference) -> Tensor:
    """(log u_w - 1/(2 beta))^2 + (log u_l + 1/(2 beta))^2: the winner wins surely.  SPPO, arXiv 2405.00675, eq. 4.7"""
    return (p.chosen_ratio - 0.5 / how.beta) ** 2 + (p.rejected_ratio + 0.5 / how.beta) ** 2


def aot(p: Pairs, how: Preference) -> Tensor:
    """-log s(beta d_i), d = sort(log pi_w - log pi_l) - sort(the same of the reference).  arXiv 2406.05882, sec. 3

    The distribution of the policy's margins is to dominate that of its reference. Sorted over the pairs of the step.
    """
    gap = torch.sort(p.chosen - p.rejected).values - torch.sort(p.ref_chosen - p.ref_rejected).values
    return smoothed(how.beta * gap, how.label_smoothing)


def aot_unpaired(p: Pairs, how: Preference) -> Tensor:
    """-log s(beta d_i), d = sort(log u_w) - sort(log u_l), sorted over the step.  arXiv 2406.05882, sec. 3"""
    gap = torch.sort(p.chosen_ratio).values - torch.sort(p.rejected_ratio).values
    return smoothed(how.beta * gap, how.label_smoothing)


def apo_zero(p: Pairs, how: Preference) -> Tensor:
    """s(-r_w) + s(r_l): for chosen answers better than the model's.  APO, arXiv 2408.06266, eq. 7"""
    won, lost = how.rewards(p)
    return torch.sigmoid(-won) + torch.sigmoid(lost)


def apo_down(p: Pairs, how: Preference) -> Tensor:
    """s(r_w) + s(r_l - r_w): for chosen answers worse than the model's.  APO, arXiv 2408.06266, eq. 8"""
    won, lost = how.rewards(p)
    return torch.sigmoid(won) + torch.sigmoid(lost - won)


def discopop(p: Pairs, how: Preference) -> Tensor:
    """-log s(z) (1 - m) + exp(-z) m, z = beta h, m = s(z / tau).  DiscoPOP, arXiv 2406.08414, eq. 5

    exp(-z) m is taken as exp(log m - z), which stays finite however small z gets.
    """
    z = how.beta * how.gap(p)
    return -F.logsigmoid(z) * torch.sigmoid(-z / how.discopop_tau) + torch.exp(F.logsigmoid(z / how.discopop_tau) - z)


class Rule(NamedTuple):
    """One loss, [P] of pairs. ``whole_step``: a pair's depends on the others of the optimizer step."""

    loss: Callable[[Pairs, Preference], Tensor]
    whole_step: bool = False


LOSSES: dict[str, Rule] = {
    'sigmoid': Rule(sigmoid),
    'sigmoid_norm': Rule(sigmoid_norm),
    'hinge': Rule(hinge),
    'ipo': Rule(ipo),
    'robust': Rule(robust),
    'exo_pair': Rule(exo_pair),
    'nca_pair': Rule(nca_pair),
    'bco_pair': Rule(bco_pair),
    'sppo_hard': Rule(sppo_hard),
    'aot': Rule(aot, whole_step=True),
    'aot_unpaired': Rule(aot_unpaired, whole_step=True),
    'apo_zero': Rule(apo_zero),
    'apo_down': Rule(apo_down),
    'discopop': Rule(discopop),
}
"""The family by its established names (TRL 1.16). 'sft', the next-token loss of the chosen answers, may be added."""


# ------------------------------------------------------------------------------------------------------------ objective
@dataclass(kw_only=True)
class Preference:
    """sum_k weight_k mean over pairs of loss_k; 'sft' adds the mean over the tokens of the chosen answers.

    ``ld_alpha``: log pi(y|x) counts a token beyond the shorter answer's length so many times.  LD-DPO, arXiv
    2409.06411. ``reference_free``: pi_ref is uniform, log pi_ref = 0. aot and aot_unpaired sort the pairs of
    the whole optimizer step, where others sort those of a micro-batch.
    """

    losses: dict[str, float] = field(default_factory=lambda: {'sigmoid': 1.0})
    beta: float = 0.1
    label_smoothing: float = 0.0
    ld_alpha: float | None = None
    divergence: str = 'reverse_kl'
    divergence_alpha: float = 0.5
    discopop_tau: float = 0.05
    reference_free: bool = False
    needs: frozenset[str] = field(init=False)

    def __post_init__(self):
        self.needs = frozenset({'logps', 'correct'} if self.reference_free else {'logps', 'correct', 'ref_logps'})
        self._near = {name: w for name, w in self.losses.items() if name != 'sft' and not LOSSES[name].whole_step}
        self._far = {name: w for name, w in self.losses.items() if name != 'sft' and LOSSES[name].whole_step}

    # ---------------------------------------------------------------------------------------------- words of formulas
    def gap(self, p: Pairs, *, per_token: bool = False) -> Tensor:
        """h = f'(u_w) - f'(u_l), each divided by the answer's tokens if ``per_token``."""
        score = DIVERGENCES[self.divergence]
        won, lost = (score(log_u, self.divergence_alpha) for log_u in (p.chosen_ratio, p.rejected_ratio))
        return won / p.chosen_length - lost / p.rejected_length if per_token else won - lost

    def rewards(self, p: Pairs) -> tuple[Tensor, Tensor]:
        """r_w and r_l, with r = beta log u."""
        return self.beta * p.chosen_ratio, self.beta * p.rejected_ratio

    # -------------------------------------------------------------------------------------------------------- a step
    def count(self, batch: Batch) -> int:
        return pairs.count(batch)

    @property
    def repeats(self) -> bool:
        """Whether pairs are sorted over the step."""
        return bool(self._far)

    def prepare(
        self, step: list[Batch], forward: Forward, reference: Reference | None = None
    ) -> list[dict[str, Tensor]]:
        """Streams for what spans the step: the tokens of chosen answers, and the pulls of losses that sort pairs."""
        streams: list[dict[str, Tensor]] = pairs.tokens_per_pair(step) if 'sft' in self.losses else [{} for _ in step]
        found = self._pulls(step, forward(step)) if self._far else [{} for _ in step]
        return [one | other for one, other in zip(streams, found, strict=True)]

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        policy = self._log_prob(batch, outputs.logps)  # [N]
        p = Pairs.of(policy, self._reference(batch), pairs.lengths(batch))
        total, metrics = policy.new_zeros(()), {}
        if self._near:
            total = total + self._mix(self._near, p).sum()
        if self._far:
            total = total + stepwide.surrogate(policy, batch)
        if 'sft' in self.losses:
            nll = pairs.nll(outputs, batch)
            total = total + self.losses['sft'] * nll.sum()
            metrics['nll_loss'] = pairs.total(nll)
        return Loss(
            total,
            {
                'loss': (total.detach(), total.new_tensor(len(p.chosen))),
                **metrics,
                **pairs.reward_metrics(*self.rewards(p)),
                'logps/chosen': pairs.total(p.chosen),
                'logps/rejected': pairs.total(p.rejected),
                'mean_token_accuracy': pairs.token_accuracy(outputs, batch),
            },
        )

    def _pulls(self, step: list[Batch], outputs: list[Outputs]) -> list[dict[str, Tensor]]:
        """What each log pi(y | x) does to the losses that span the step."""
        step = [batch.to(out.logps.device) for batch, out in zip(step, outputs, strict=True)]
        policy = [self._log_prob(batch, out.logps) for batch, out in zip(step, outputs, strict=True)]
        fixed = [stepwide.whole(step, [of(batch) for batch in step]) for of in (self._reference, pairs.lengths)]
        return stepwide.pulls(step, policy, lambda policy: self._mix(self._far, Pairs.of(policy, *fixed)))

    def _mix(self, losses: dict[str, float], p: Pairs) -> Tensor:
        """[P]"""
        return torch.stack([weight * LOSSES[name].loss(p, self) for name, weight in losses.items()]).sum(0)

    def _reference(self, batch: Batch) -> Tensor:
        """log pi_ref(y | x) of each sequence, [N]."""
        return self._log_prob(
            batch, torch.zeros_like(batch.weight) if self.reference_free else batch.streams['ref_logps']
        )

    def _log_prob(self, batch: Batch, logps: Tensor) -> Tensor:
        """log pi(y | x) of each sequence, [N]."""
        return batch.per_sequence(logps if self.ld_alpha is None else logps * length_weight(batch, self.ld_alpha))


def length_weight(batch: Batch, alpha: float) -> Tensor:
    """1 for tokens of an answer up to the length of the pair's shorter one, ``alpha`` beyond it, [T]."""
    answer = (batch.weight != 0).to(batch.weight.dtype)
    shorter = pairs.lengths(batch).view(-1, 2).amin(1)  # [P]
    limits = dict(zip(batch.segments.leaves, shorter.repeat_interleave(2), strict=True))
    found: list[Tensor] = []
    before: list[Tensor] = []  # tokens of the answer up to the end of each segment
    for i, (own, parent) in enumerate(zip(answer.split(batch.segments.lengths), batch.segments.parents, strict=True)):
        nth = own.cumsum(0) + (before[parent] if parent >= 0 else 0)
        before.append(nth[-1])
        # what a pair shares is within the length of both
        beyond = (nth > limits[i]).to(own.dtype) if i in limits else torch.zeros_like(own)
        found.append(1 - (1 - alpha) * beyond)
    return torch.cat(found)


def from_args(args: ObjectiveArgs) -> Preference:
    """The objective of ``--rlhf_type dpo``."""
    return Preference(
        losses=args.losses,
        beta=args.strength,
        label_smoothing=args.label_smoothing,
        ld_alpha=args.ld_alpha,
        divergence=args.f_divergence_type,
        divergence_alpha=args.f_alpha_divergence_coef,
        discopop_tau=args.discopop_tau,
        reference_free=args.reference_free,
    )
