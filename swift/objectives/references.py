"""Each objective once more, in float64 and plain Python, as its paper writes it: what ``swift verify`` compares with.

Nothing here is shared with the objectives themselves, and nothing is clever: a step is a list of rows, a row is a tuple
of answers (chosen, rejected), an answer is a list of log-probabilities. Every function returns the loss of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import exp, log


@dataclass(frozen=True)
class Answer:
    """One answer: log-probabilities of its tokens by the policy and by the reference, and what else a row knows.

    ``other`` is (policy, reference) log-probability of the answer that the previous row of the step has, after this
    row's prompt. ``label``: margin of a pair, or 1.0 for an answer that is wanted and 0.0 for one that is not.
    """

    logps: Sequence[float] = ()
    ref: Sequence[float] = ()
    score: float = 0.0
    other: tuple[float, float] = (0.0, 0.0)
    label: float = 0.0


Row = tuple[Answer, ...]
Reference = Callable[..., float]


def sigma(z: float) -> float:
    return 1 / (1 + exp(-z))


# ----------------------------------------------------------------------------------------------------------- DPO family
def _log_u(answer: Answer) -> float:
    return float(np.sum(answer.logps) - np.sum(answer.ref))


def _rows(rows: list[Row], ld_alpha: float | None = None, reference_free: bool = False) -> list[Row]:
    """What every loss of the family may have done to log-probabilities before.

    LD-DPO: log p of tokens beyond the shorter answer times alpha. Reference-free: log p_ref = 0.
    """
    out = []
    for row in rows:
        n = min(len(answer.logps) for answer in row)
        times = [1.0 if i < n or ld_alpha is None else ld_alpha for i in range(max(len(a.logps) for a in row))]
        weigh = lambda values, times=times: [x * w for x, w in zip(values, times, strict=False)]
        out.append(tuple(Answer(weigh(a.logps), [0.0] if reference_free else weigh(a.ref)) for a in row))
    return out


def _f_prime(u: float, divergence: str, alpha: float) -> float:
    """Derivative of f at u; constants as the established programs have them."""
    if divergence == 'reverse_kl':  # f = u log u
        return log(u)
    if divergence == 'forward_kl':  # f = -log u
        return 1 - 1 / u
    if divergence == 'js_divergence':
        return log(2 * u / (1 + u))
    return (u ** (alpha - 1) - 1) / (alpha - 1)


def _pairwise(loss: Callable[..., float]) -> Reference:
    """The mean over the rows of a loss of one pair."""

    def step(rows: list[Row], *, ld_alpha: float | None = None, reference_free: bool = False, **how: float) -> float:
        return float(np.mean([loss(won, lost, **how) for won, lost in _rows(rows, ld_alpha, reference_free)]))

    return step


def _h(won: Answer, lost: Answer, f_divergence_type='reverse_kl', f_alpha_divergence_coef=0.5, mean=False) -> float:
    f = [_f_prime(exp(_log_u(a)), f_divergence_type, f_alpha_divergence_coef) for a in (won, lost)]
    return f[0] / len(won.logps) - f[1] / len(lost.logps) if mean else f[0] - f[1]


@_pairwise
def sigmoid(won, lost, *, beta=0.1, label_smoothing=0.0, **how):
    z = beta * _h(won, lost, **how)
    return -(1 - label_smoothing) * log(sigma(z)) - label_smoothing * log(sigma(-z))


@_pairwise
def sigmoid_norm(won, lost, *, beta=0.1, label_smoothing=0.0, **how):
    z = beta * _h(won, lost, mean=True, **how)
    return -(1 - label_smoothing) * log(sigma(z)) - label_smoothing * log(sigma(-z))


@_pairwise
def hinge(won, lost, *, beta=0.1, **how):
    return max(0.0, 1 - beta * _h(won, lost, **how))


@_pairwise
def ipo(won, lost, *, beta=0.1, **how):
    return (_h(won, lost, mean=True, **how) - 1 / (2 * beta)) ** 2


@_pairwise
def robust(won, lost, *, beta=0.1, label_smoothing=0.0, **how):
    z, e = beta * _h(won, lost, **how), label_smoothing
    right, flipped = -log(sigma(z)), -log(sigma(-z))
    return ((1 - e) * right - e * flipped) / (1 - 2 * e)


@_pairwise
def exo_pair(won, lost, *, beta=0.1, label_smoothing=1e-3, **how):
    scores = np.array([beta * _h(won, lost, **how), 0.0])
    q = exp(scores) / exp(scores).sum()
    p = np.array([1 - label_smoothing, label_smoothing])
    return np.sum(q * log(q / p))


@_pairwise
def nca_pair(won, lost, *, beta=0.1):
    r_w, r_l = beta * _log_u(won), beta * _log_u(lost)
    return -log(sigma(r_w)) - 0.5 * (log(sigma(-r_w)) + log(sigma(-r_l)))


@_pairwise
def bco_pair(won, lost, *, beta=0.1):
    return -log(sigma(beta * _log_u(won))) - log(1 - sigma(beta * _log_u(lost)))


@_pairwise
def sppo_hard(won, lost, *, beta=0.1):
    return (_log_u(won) - 1 / (2 * beta)) ** 2 + (_log_u(lost) + 1 / (2 * beta)) ** 2


@_pairwise
def apo_zero(won, lost, *, beta=0.1):
    return 1 - sigma(beta * _log_u(won)) + sigma(beta * _log_u(lost))


@_pairwise
def apo_down(won, lost, *, beta=0.1):
    return sigma(beta * _log_u(won)) + 1 - sigma(beta * (_log_u(won) - _log_u(lost)))


@_pairwise
def discopop(won, lost, *, beta=0.1, discopop_tau=0.05, **how):
    z = beta * _h(won, lost, **how)
    mix = sigma(z / discopop_tau)
    return (1 - mix) * log(1 + exp(-z)) + mix * exp(-z)


def _dominance(better: list[float], worse: list[float], beta: float, e: float) -> float:
    gaps = [beta * (a - b) for a, b in zip(sorted(better), sorted(worse), strict=True)]
    return float(np.mean([-(1 - e) * log(sigma(z)) - e * log(sigma(-z)) for z in gaps]))


def aot(rows, *, beta=0.1, label_smoothing=0.0, **before):
    rows = _rows(rows, **before)
    policy = [np.sum(won.logps) - np.sum(lost.logps) for won, lost in rows]
    reference = [np.sum(won.ref) - np.sum(lost.ref) for won, lost in rows]
    return _dominance(policy, reference, beta, label_smoothing)


def aot_unpaired(rows, *, beta=0.1, label_smoothing=0.0, **before):
    rows = _rows(rows, **before)
    won, lost = [_log_u(row[0]) for row in rows], [_log_u(row[1]) for row in rows]
    return _dominance(won, lost, beta, label_smoothing)


def next_token(rows):
    """The mean over all tokens of all chosen answers."""
    return -float(np.mean([x for won, _ in rows for x in won.logps]))


# --------------------------------------------------------------------------------------------------- answers one by one
def kto(rows, **how):
    kl = float(np.mean([answer.other[0] - answer.other[1] for (answer,) in rows]))
    return _judged(rows, max(0.0, kl), **how)


def apo_zero_unpaired(rows, **how):
    return _judged(rows, 0.0, **how)


def _judged(rows, z0, *, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0):
    losses = []
    for (answer,) in rows:
        r = _log_u(answer)
        if answer.label == 1.0:
            losses.append(desirable_weight * (1 - sigma(beta * (r - z0))))
        else:
            losses.append(undesirable_weight * (1 - sigma(beta * (z0 - r))))
    return float(np.mean(losses))


# ---------------------------------------------------------------------------------------------------- without reference
def _cpo(rows, loss: Callable[[float], float], mean: bool, alpha: float) -> float:
    rate = np.mean if mean else np.sum
    return float(np.mean([loss(rate(won.logps) - rate(lost.logps)) for won, lost in rows])) + alpha * next_token(rows)


def _smooth(z: float, e: float) -> float:
    return -(1 - e) * log(sigma(z)) - e * log(1 - sigma(z))


def cpo(rows, *, beta=0.1, label_smoothing=0.0, cpo_alpha=1.0):
    return _cpo(rows, lambda gap: _smooth(beta * gap, label_smoothing), False, cpo_alpha)


def cpo_hinge(rows, *, beta=0.1, cpo_alpha=1.0):
    return _cpo(rows, lambda gap: max(0.0, 1 - beta * gap), False, cpo_alpha)


def cpo_ipo(rows, *, beta=0.1, cpo_alpha=1.0):
    return _cpo(rows, lambda gap: (gap - 1 / (2 * beta)) ** 2, True, cpo_alpha)


def simpo(rows, *, beta=2.0, simpo_gamma=1.0, label_smoothing=0.0, cpo_alpha=1.0):
    return _cpo(rows, lambda gap: _smooth(beta * gap - simpo_gamma, label_smoothing), True, cpo_alpha)


def orpo(rows, *, beta=0.1):
    odds = lambda answer: exp(np.mean(answer.logps)) / (1 - exp(np.mean(answer.logps)))
    ratios = [odds(won) / odds(lost) for won, lost in rows]
    return next_token(rows) + beta * float(np.mean([-log(sigma(log(ratio))) for ratio in ratios]))


# --------------------------------------------------------------------------------------------------------------- scores
def bradley_terry(rows, *, center_rewards_coefficient=0.0):
    preferred = [log(sigma(won.score - lost.score - won.label)) for won, lost in rows]
    centred = [(won.score + lost.score) ** 2 for won, lost in rows]
    return -float(np.mean(preferred)) + center_rewards_coefficient * float(np.mean(centred))


def step_rewards(rows):
    return -float(
        np.mean([a.label * log(sigma(a.score)) + (1 - a.label) * log(1 - sigma(a.score)) for row in rows for a in row])
    )
