"""Logits become tokens: one vectorised pass over a batch whose rows have their own parameters.

    logits -> penalties -> grammar -> / temperature -> top-k, top-p, min-p -> argmax of logits + Gumbel noise

The noise of a row comes from the row's own generator when it has a seed. So an answer depends on its seed alone, not
on the batch it was drawn in (up to the rounding of logits, which kernels may do differently for other batch sizes).

Shapes: ``B`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from swift.core.types import Sampling, TokenLogprob
from swift.engines.grammar import Constraint, allow_only

NUCLEUS = 1024  # tokens that nearly always hold the nucleus of top-p; if not, the whole vocabulary is sorted
FAINTEST = 2.0**-32  # generators that draw 0 now and then must not give a hopeless token endless luck


@dataclass(slots=True)
class Draw:
    """How one row draws, and what its penalties must know of the past."""

    sampling: Sampling
    generator: np.random.Generator | torch.Generator | None = None  # None: the batch's own
    seen: Tensor | None = None  # bool [V]: tokens of prompt and answer
    counts: Tensor | None = None  # int32 [V]: how often the answer has each token
    constraint: Constraint | None = None  # which tokens its grammar allows

    @classmethod
    def start(cls, sampling: Sampling, index: int, prompt_ids: Sequence[int], vocabulary: int, device: torch.device):
        """The state of choice ``index`` of a request before its first token."""
        draw = cls(sampling)
        if sampling.temperature > 0 and sampling.seed is not None:
            draw.generator = _generator(choice_seed(sampling.seed, index), device)
        if draw.penalised:
            draw.counts = torch.zeros(vocabulary, dtype=torch.int32, device=device)
            draw.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            draw.seen[torch.tensor(prompt_ids, device=device)] = True
        return draw

    @property
    def penalised(self) -> bool:
        """Whether the past changes the row's logits."""
        s = self.sampling
        return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0

    def note(self, token: int) -> None:
        """Remember a token of the answer. Raises RequestError when its grammar cannot go on."""
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.counts is not None and self.seen is not None:
            self.counts[token] += 1
            self.seen[token] = True


def _generator(seed: int, device: torch.device) -> np.random.Generator | torch.Generator:
    """A source of noise where the scores lie. On the CPU numpy's draws ten times as fast as torch's."""
    if device.type == 'cpu':
        return np.random.Generator(np.random.SFC64(seed))
    return torch.Generator(device).manual_seed(seed)


def choice_seed(seed: int, index: int) -> int:
    """Seed of choice ``index``: that of the request for the first, far from it for the others."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**63


@torch.inference_mode()
def choose(
    logits: Tensor, draws: Sequence[Draw], generator: torch.Generator | None = None
) -> tuple[list[int], list[TokenLogprob | None]]:
    """The next token of each row, and its log-probability where asked for.

    Log-probabilities are the model's own: before penalties, grammar, temperature and filters.

    Args:
        logits: float [B, V].
        generator: source of noise for rows without a seed.
    """
    logits = logits.float()
    scores = allow_only(penalise(logits, draws), [draw.constraint for draw in draws])
    temperature = _column([draw.sampling.temperature for draw in draws], scores)
    drawn = (temperature > 0).squeeze(1).nonzero().squeeze(1)
    if len(drawn):
        chosen = [draws[i] for i in drawn.tolist()]
        warm = keep_likely(scores[drawn] / temperature[drawn], chosen)
        if len(drawn) == len(draws):
            scores = warm + gumbel(warm, chosen, generator)
        else:
            scores = scores.index_copy(0, drawn, warm + gumbel(warm, chosen, generator))
    tokens = scores.argmax(-1)
    return tokens.tolist(), logprobs(logits, tokens, draws)


def penalise(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Repetition penalty over prompt and answer (arXiv 1909.05858, section 4.1), then OpenAI's two over the answer.

    l > 0: l / r, else l * r   for tokens seen;    l - frequency * count - presence * [count > 0]
    """
    rows = [i for i, draw in enumerate(draws) if draw.penalised]
    if not rows:
        return logits
    settings = [draws[i].sampling for i in rows]
    part = logits[rows]
    seen = torch.stack([draws[i].seen for i in rows])
    counts = torch.stack([draws[i].counts for i in rows])
    repetition = _column([s.repetition_penalty for s in settings], part)
    part = torch.where(seen, torch.where(part > 0, part / repetition, part * repetition), part)
    part = part - _column([s.frequency_penalty for s in settings], part) * counts
    part = part - _column([s.presence_penalty for s in settings], part) * (counts > 0)
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), part)


def keep_likely(scores: Tensor, draws: Sequence[Draw]) -> Tensor:
    """``scores`` [B, V] with -inf where top-k, top-p (arXiv 1904.09751) or min-p (arXiv 2407.01082) leave a token out.

    Tokens as likely as the last one kept are kept too: which of them goes must not depend on how a sort breaks ties.
    """
    settings = [draw.sampling for draw in draws]
    if all(s.top_k <= 0 and s.top_p >= 1 and s.min_p <= 0 for s in settings):
        return scores
    least = scores.amax(-1, keepdim=True) + _column([s.min_p for s in settings], scores).log()
    if any(s.top_k > 0 or s.top_p < 1 for s in settings):
        least = torch.maximum(least, _least_of_nucleus(scores, settings))
    return scores.masked_fill(scores < least, float('-inf'))


def _least_of_nucleus(scores: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """The score [B, 1] of the last token that top-k and top-p keep: top-p is a part of what top-k leaves."""
    V = scores.shape[-1]
    top_k = _column([s.top_k if 0 < s.top_k < V else V for s in settings], scores)
    top_p = _column([s.top_p if s.top_p < 1 else 2 for s in settings], scores)  # 2: sums exceed 1 by rounding
    widths = (max((s.top_k for s in settings if s.top_k > 0), default=1), NUCLEUS, V)
    for width in sorted({min(width, V) for width in widths}):
        top = scores.topk(width).values  # [B, width], descending
        total = scores.logsumexp(-1, keepdim=True)
        limited = top_k <= width
        inside = torch.arange(width, device=scores.device) < top_k
        total = torch.where(limited, top.masked_fill(~inside, float('-inf')).logsumexp(-1, keepdim=True), total)
        before = (top - total).exp().cumsum(-1) - (top - total).exp()  # mass of the likelier tokens
        kept = (inside & (before < top_p)).sum(-1, keepdim=True).clamp(min=1)
        enough = limited | (kept < width) | (top_p >= 1)
        if width == V or bool(enough.all()):
            break
    least = top.gather(-1, kept - 1)
    return least.masked_fill((top_k >= V) & (top_p >= 1), float('-inf'))


def gumbel(scores: Tensor, draws: Sequence[Draw], generator: torch.Generator | None) -> Tensor:
    """Noise [B, V] whose addition makes the argmax a draw from softmax(scores): -log of exponential numbers."""
    noise = torch.empty_like(scores, memory_format=torch.contiguous_format)
    common = None
    if any(draw.generator is None for draw in draws):
        seed = torch.randint(2**62, (), generator=generator, device=noise.device)
        common = _generator(int(seed), noise.device)
    for row, draw in zip(noise, draws, strict=True):
        source = draw.generator or common
        if isinstance(source, np.random.Generator):
            source.standard_exponential(dtype=np.float32, out=row.numpy())
        else:
            row.exponential_(generator=source)
    return noise.clamp_(min=FAINTEST).log_().neg_()


def logprobs(logits: Tensor, tokens: Tensor, draws: Sequence[Draw]) -> list[TokenLogprob | None]:
    """log-softmax of ``logits`` at the chosen tokens, with the likeliest ones, for the rows that ask for it."""
    out: list[TokenLogprob | None] = [None] * len(draws)
    rows = [i for i, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    if not rows:
        return out
    logp = logits[rows].log_softmax(-1)
    chosen = logp.gather(-1, tokens[rows, None]).squeeze(1).tolist()
    most = max(draws[i].sampling.logprobs or 0 for i in rows)
    values, ids = (each.tolist() for each in logp.topk(min(most, logp.shape[-1])))
    for at, i in enumerate(rows):
        k = draws[i].sampling.logprobs
        top = tuple(zip(ids[at][:k], values[at][:k], strict=True))
        out[i] = TokenLogprob(int(tokens[i]), chosen[at], top)
    return out


def prompt_logprobs(logits: Tensor, targets: Sequence[int], count: int) -> list[TokenLogprob]:
    """log-softmax of ``logits`` [T, V] at the token that follows each, with the ``count`` likeliest ones."""
    if not len(targets):
        return []
    logp = logits.float().log_softmax(-1)
    chosen = logp.gather(-1, torch.tensor([list(targets)], device=logits.device).T).squeeze(1).tolist()
    values, ids = (each.tolist() for each in logp.topk(min(count, logp.shape[-1])))
    tops = (tuple(zip(*each, strict=True)) for each in zip(ids, values, strict=True))
    return [TokenLogprob(*each) for each in zip(map(int, targets), chosen, tops, strict=True)]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
