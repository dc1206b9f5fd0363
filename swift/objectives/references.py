"""Each objective once more, in float64 and plain Python, as its paper writes it: what ``swift verify`` compares with.

Nothing here is shared with the objectives themselves, and nothing is clever: a step is a list of rows, a row is a tuple
of answers (chosen, rejected), an answer is a list of log-probabilities. Every function returns the loss of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import exp, log


@dataclass(frozen=True)
class Answer:
    """One answer, or one text that is read whole: numbers of its tokens by policy and reference, and what a row knows.

    ``logps``, ``ref``: log-probabilities of its tokens; ``still``: the policy's where no gradient flows; ``weights``
    of their losses. ``policy_says``, ``teacher_says``: log-probabilities of all tokens in the place of each of them,
    and ``says_next`` after the last. ``score``, ``vector``: what is read of the whole. ``other`` is (policy, reference)
    log-probability of the answer that the previous row of the step has, after this row's prompt. ``label``: margin of a
    pair, 1.0 for an answer that is wanted and 0.0 for one that is not; ``labels``: all that the row has.
    """

    logps: Sequence[float] = ()
    ref: Sequence[float] = ()
    still: Sequence[float] = ()
    weights: Sequence[float] = ()
    policy_says: Sequence[np.ndarray] = ()
    teacher_says: Sequence[np.ndarray] = ()
    says_next: Sequence[float] = ()
    score: float = 0.0
    vector: Sequence[float] = ()
    other: tuple[float, float] = (0.0, 0.0)
    label: float = 0.0
    labels: Sequence[float] = ()
    channel: str | None = None


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


# ---------------------------------------------------------------------------------------------------------- fine-tuning
def _weighed(rows, losses) -> float:
    """The sum of w_t times the loss of token t, over the number of tokens."""
    found = [w * loss for (text,) in rows for w, loss in zip(text.weights, losses(text), strict=True)]
    return float(np.sum(found)) / len(found)


def cross_entropy(rows):
    return _weighed(rows, lambda text: [-x for x in text.logps])


def dynamic(rows):
    """Dynamic fine-tuning: the probability in front of log p has no gradient."""
    return _weighed(rows, lambda text: [-exp(still) * x for x, still in zip(text.logps, text.still, strict=True)])


def channels(rows):
    """The loss of each channel by its name."""
    names = {text.channel for (text,) in rows}
    return {f'loss_{name}': cross_entropy([row for row in rows if row[0].channel == name]) for name in names}


# --------------------------------------------------------------------------------------------------------- distillation
def _taught(rows, divergence, *, temperature=0.9, sft_alpha=0.0, gkd_logits_topk=None) -> float:
    """The mean over tokens of a divergence of q, the teacher's probabilities, and p, the student's."""

    def losses(text: Answer) -> list[float]:
        found = []
        for policy, teacher, logp in zip(text.policy_says, text.teacher_says, text.logps, strict=True):
            kept = np.argsort(-np.array(teacher))[:gkd_logits_topk]
            p, q = (exp(np.array(says)[kept] / temperature) for says in (policy, teacher))
            found.append(divergence(p / p.sum(), q / q.sum()) - sft_alpha * logp)
        return found

    return _weighed(rows, losses)


def _kl(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * (log(a) - log(b))))


def jensen_shannon(rows, *, beta=0.5, **how):
    def divergence(p, q):
        m = beta * q + (1 - beta) * p
        return beta * _kl(q, m) + (1 - beta) * _kl(p, m)

    return _taught(rows, divergence, **how)


def forward_kl(rows, **how):
    return _taught(rows, lambda p, q: _kl(q, p), **how)


def reverse_kl(rows, **how):
    return _taught(rows, lambda p, q: _kl(p, q), **how)


def likeliest(rows, *, gkd_logits_topk=2, **how):
    return jensen_shannon(rows, gkd_logits_topk=gkd_logits_topk, **how)


# -------------------------------------------------------------------------------------------------------------- classes
CLASSES = 3


def one_of_several(rows):
    losses = []
    for (text,) in rows:
        odds = exp(np.array(text.vector[:CLASSES]))
        losses.append(-log(odds[int(text.labels[0])] / odds.sum()))
    return float(np.mean(losses))


def any_of_several(rows):
    losses = []
    for (text,) in rows:
        for c in range(CLASSES):
            p = sigma(text.vector[c])
            losses.append(-log(p) if c in text.labels else -log(1 - p))
    return float(np.mean(losses))


def numbers(rows):
    return float(np.mean([(s - y) ** 2 for (text,) in rows for s, y in zip(text.vector, text.labels, strict=False)]))


# ----------------------------------------------------------------------------------------------------------- embeddings
FAR = 0.5


def _cos(u, v) -> float:
    return float(np.dot(u, v) / np.sqrt(np.dot(u, u) * np.dot(v, v)))


def _distances(rows) -> list[tuple[float, float]]:
    """1 - cos of each anchor with each other text of its row, and whether they are alike."""
    return [
        (1 - _cos(anchor.vector, other.vector), anchor.label if i == 0 else 0.0)
        for anchor, *others in rows
        for i, other in enumerate(others)
    ]


def cosine_similarity(rows):
    return float(np.mean([((1 - d) - y) ** 2 for d, y in _distances(rows)]))


def contrastive(rows):
    return float(np.mean([(y * d**2 + (1 - y) * max(0.0, FAR - d) ** 2) / 2 for d, y in _distances(rows)]))


def online_contrastive(rows):
    """A sum. Limits are those of the hardest pair of the other kind."""
    near, far = ([d for d, y in _distances(rows) if y == wanted] for wanted in (1.0, 0.0))
    hard = [d**2 for d in near if d > min(far)]
    return float(np.sum(hard) + np.sum([max(0.0, FAR - d) ** 2 for d in far if d < max(near)]))


def triplet(rows):
    losses = []
    for anchor, positive, *negatives in rows:
        near = 1 - _cos(anchor.vector, positive.vector)
        losses += [max(0.0, near - (1 - _cos(anchor.vector, each.vector)) + FAR) for each in negatives]
    return float(np.mean(losses))


def infonce(
    rows, *, infonce_temperature=0.1, infonce_use_batch=True, infonce_hard_negatives=None, infonce_include_qq=False,
    infonce_include_dd=False, infonce_mask_fake_negative=False, infonce_fake_neg_margin=0.1,
):  # fmt: skip
    if infonce_hard_negatives is not None:
        rows = [(q, p, *(n[i % len(n)] for i in range(infonce_hard_negatives if n else 0))) for q, p, *n in rows]
    losses = []
    for query, positive, *_ in rows:
        own = _cos(query.vector, positive.vector)
        real = lambda c, own=own: not infonce_mask_fake_negative or c <= own + infonce_fake_neg_margin
        against = rows if infonce_use_batch else [row for row in rows if row[0] is query]
        documents = [document for row in against for document in row[1:]]
        alike = [c for each in documents if real(c := _cos(query.vector, each.vector))]
        if infonce_include_qq:
            queries = [row[0] for row in rows if row[0] is not query]
            alike += [c for each in queries if real(c := _cos(query.vector, each.vector))]
        if infonce_include_dd:
            alike += [_cos(positive.vector, each.vector) for each in documents if each is not positive]
        losses.append(log(np.sum(exp(np.array(alike) / infonce_temperature))) - own / infonce_temperature)
    return float(np.mean(losses))


def matryoshka(rows):
    """InfoNCE of the first two numbers, half of it, and of the first four."""
    cut = lambda size: [tuple(Answer(vector=text.vector[:size], label=text.label) for text in row) for row in rows]
    return 0.5 * infonce(cut(2)) + infonce(cut(4))


# -------------------------------------------------------------------------------------------------------------- ranking
def pointwise(rows):
    wanted = [(document.score, document.label) for row in rows for document in row]
    return -float(np.mean([log(sigma(s)) if y else log(1 - sigma(s)) for s, y in wanted]))


def listwise(rows, *, listwise_reranker_temperature=1.0):
    losses = []
    for row in rows:
        if len(row) > 1:
            odds = exp(np.array([document.score for document in row]) / listwise_reranker_temperature)
            losses.append(-log(odds[[document.label for document in row].index(1.0)] / odds.sum()))
    return float(np.mean(losses))


def _answered(rows) -> list[Row]:
    """The same with log p(yes) - log p(no) after each document as its score."""
    return [tuple(replace(d, score=d.says_next[0] - d.says_next[1]) for d in row) for row in rows]


def pointwise_answered(rows):
    return pointwise(_answered(rows))


def listwise_answered(rows, **how):
    return listwise(_answered(rows), **how)


def ranks(rows):
    """MRR, and NDCG where one document is relevant: 1 / log2(1 + its rank)."""
    places = []
    for row in rows:
        if len(row) > 1:
            own = next(document.score for document in row if document.label == 1.0)
            places.append(1 + sum(document.score > own for document in row))
    return {'mrr': float(np.mean(1 / np.array(places))), 'ndcg': float(np.mean(1 / np.log2(1 + np.array(places))))}


def ranks_answered(rows):
    return ranks(_answered(rows))
