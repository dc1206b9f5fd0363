"""Logits become tokens: one vectorised pass over a batch whose rows have their own parameters.

    logits -> bias, penalties -> grammar -> / temperature -> top-k, top-p, min-p -> argmax of logits + Gumbel noise

The noise of a row comes from the row's own generator when it has a seed. So an answer depends on its seed alone, not
on the batch it was drawn in (up to the rounding of logits, which kernels may do differently for other batch sizes).

Shapes: ``B`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from swift.core.types import Sampling, TokenLogprob
from swift.engines.grammar import Constraint, allow_only

BLOCK, BLOCKS = 32, 64  # the tokens of so many blocks nearly always hold the nucleus of top-p; if not, all are sorted
PUT_OFF = -1e30  # makes an end token hopeless, but not forbidden: a grammar may leave nothing else
FAINTEST = 2.0**-32  # generators that draw 0 now and then must not give a hopeless token endless luck


@dataclass(slots=True)
class Draw:
    """How one row draws, and what its penalties must know of the past."""

    sampling: Sampling
    generator: np.random.Generator | torch.Generator | None = None  # None: the batch's own
    seen: Tensor | None = None  # bool [V]: tokens of prompt and answer
    counts: Tensor | None = None  # int32 [V]: how often the answer has each token
    constraint: Constraint | None = None  # which tokens its grammar allows
    ends: tuple[int, ...] = ()  # tokens that are put off
    early: int = 0  # for so many tokens

    @classmethod
    def start(
        cls,
        sampling: Sampling,
        index: int,
        prompt_ids: Sequence[int],
        vocabulary: int,
        device: torch.device,
        ends: Collection[int] = (),
    ) -> Draw:
        """The state of choice ``index`` of a request before its first token; ``ends`` are the tokens that end it."""
        draw = cls(sampling, ends=tuple(id for id in ends if id < vocabulary), early=sampling.min_tokens)
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
        self.early = max(0, self.early - 1)
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
    scores = put_off_ends(penalise(add_bias(logits, draws), draws), draws)
    scores = allow_only(scores, [draw.constraint for draw in draws])
    rows = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if len(rows) == len(draws):
        tokens = _draw(scores, draws, generator)
    else:
        tokens = scores.max(-1).indices  # twice as fast as argmax
        if rows:
            tokens[rows] = _draw(scores[rows], [draws[i] for i in rows], generator)
    return tokens.tolist(), logprobs(logits, tokens, draws)


def _draw(scores: Tensor, draws: Sequence[Draw], generator: torch.Generator | None) -> Tensor:
    """A token [B] out of those that the filters of each row leave. Only these need the logarithm of their noise."""
    scores = scores / _column([draw.sampling.temperature for draw in draws], scores)
    least = least_kept(scores, draws)
    noise = exponential(scores, draws, generator)
    if least is None:
        return torch.sub(scores, noise.clamp_(min=FAINTEST).log_(), out=noise).argmax(-1)
    kept = _where((scores >= least).view(-1))
    luck = noise.view(-1)[kept].clamp_(min=FAINTEST).log_()
    noise.fill_(float('-inf')).view(-1)[kept] = scores.view(-1)[kept] - luck
    return noise.argmax(-1)


def add_bias(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """l + logit_bias."""
    return _add(logits, [(i, id, value) for i, draw in enumerate(draws) for id, value in draw.sampling.logit_bias])


def put_off_ends(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits [B, V] with hopeless end tokens in the rows that have not yet ``min_tokens``."""
    return _add(logits, [(i, id, PUT_OFF) for i, draw in enumerate(draws) if draw.early for id in draw.ends])


def _add(logits: Tensor, what: Sequence[tuple[int, int, float]]) -> Tensor:
    """Add numbers, each at its (row, token, number)."""
    if not what:
        return logits
    rows, ids, values = zip(*what, strict=True)
    where = tuple(torch.tensor(each, device=logits.device) for each in (rows, ids))
    return logits.index_put(where, torch.tensor(values, device=logits.device), accumulate=True)


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


def least_kept(scores: Tensor, draws: Sequence[Draw]) -> Tensor | None:
    """The lowest score [B, 1] that top-k, top-p (arXiv 1904.09751) and min-p (arXiv 2407.01082) keep; None: any.

    Tokens as likely as the last one kept are kept too: which of them goes must not depend on how a sort breaks ties.
    """
    settings = [draw.sampling for draw in draws]
    if all(s.top_k <= 0 and s.top_p >= 1 and s.min_p <= 0 for s in settings):
        return None
    least = scores.amax(-1, keepdim=True) + _column([s.min_p for s in settings], scores).log()
    if rows := [i for i, s in enumerate(settings) if s.top_k > 0 or s.top_p < 1]:
        some = scores if len(rows) == len(scores) else scores[rows]
        least[rows] = torch.maximum(least[rows], _least_of_nuclei(some, [settings[i] for i in rows]))
    return least


def _least_of_nuclei(scores: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """The score [B, 1] of the last token that top-k and top-p keep: top-p is a part of what top-k leaves.

    Sorting the vocabulary is slow, and the likely tokens are few: the blocks with the highest maxima are looked at
    first. No token above the highest one of the other blocks is missing there.
    """
    V = scores.shape[-1]
    nuclei = _Nuclei.of(scores, settings)
    padded = torch.nn.functional.pad(scores, (0, -V % BLOCK), value=float('-inf')) if V % BLOCK else scores
    blocks = padded.view(len(scores), -1, BLOCK)
    count = max(BLOCKS, *(s.top_k for s in settings))
    if count >= blocks.shape[1]:
        return nuclei.least(_descending(scores))
    highest, first = blocks.amax(-1).topk(count + 1)
    some = blocks.gather(1, first[:, :count, None].expand(-1, -1, BLOCK)).flatten(1)
    least = nuclei.least(_descending(some))
    doubtful = _where((least < highest[:, count:]).squeeze(1))
    if len(doubtful):
        least[doubtful] = nuclei.rows(doubtful).least(_descending(scores[doubtful]))
    return least


@dataclass(frozen=True, slots=True)
class _Nuclei:
    """What each row keeps: [B, 1] numbers. Likelihoods are relative to the row's most likely token, in float64."""

    top_k: Tensor  # V: no limit
    top_p: Tensor  # inf: no limit
    highest: Tensor  # score
    mass: Tensor  # likelihood of the whole row

    @classmethod
    def of(cls, scores: Tensor, settings: Sequence[Sampling]) -> _Nuclei:
        """Of the settings of the rows of ``scores``."""
        V = scores.shape[-1]
        highest = scores.amax(-1, keepdim=True)
        return cls(
            _column([s.top_k if 0 < s.top_k < V else V for s in settings], scores).long(),
            _column([s.top_p if s.top_p < 1 else float('inf') for s in settings], scores).double(),
            highest,
            (scores.logsumexp(-1, keepdim=True) - highest).double().exp(),
        )

    def rows(self, which: Tensor) -> _Nuclei:
        """Those of some rows."""
        return _Nuclei(self.top_k[which], self.top_p[which], self.highest[which], self.mass[which])

    def least(self, top: Tensor) -> Tensor:
        """The score [B, 1] of the last token kept, out of the highest scores of each row, in descending order."""
        width = top.shape[-1]
        mass = (top - self.highest).double().exp().cumsum(-1)  # of each token and the likelier ones
        limited = self.top_k <= width
        whole = torch.where(limited, mass.gather(-1, self.top_k.clamp(max=width) - 1), self.mass)
        before = (mass < self.top_p * whole).sum(-1, keepdim=True)
        return top.gather(-1, torch.minimum(before, self.top_k - 1).clamp(max=width - 1))


def _descending(scores: Tensor) -> Tensor:
    """Sorted rows. On the CPU numpy sorts ten times as fast as torch."""
    if scores.device.type == 'cpu':
        return torch.from_numpy(np.sort(scores.numpy(), axis=-1)).flip(-1)
    return scores.sort(-1, descending=True).values


def _where(mask: Tensor) -> Tensor:
    """Indices of what is true. torch wakes all its threads for that, however little there is, and waits for them."""
    if mask.device.type == 'cpu':
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def exponential(scores: Tensor, draws: Sequence[Draw], generator: torch.Generator | None) -> Tensor:
    """Exponential numbers e [B, V]: the argmax of scores - log e is a draw from softmax(scores)."""
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
    return noise


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
