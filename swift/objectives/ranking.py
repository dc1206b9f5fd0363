"""Rerankers: a score for each document of a query, and which of them are relevant.

A group is a query with its documents, in the order of the row; ``labels`` say for each whether it is relevant, 1 or 0.

Shapes: ``N`` documents in ``G`` groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from swift.core.types import Batch, Loss, Outputs
from swift.objectives.args import TaskArgs

Pair = tuple[Tensor, Tensor]


class Pointwise:
    """-y log sigma(s) - (1 - y) log sigma(-s), the mean over documents: s its score, y 1 if it is relevant, else 0.

    Nogueira and Cho, arXiv 1901.04085, section 3.
    """

    needs = frozenset({'scores'})

    def count(self, batch: Batch) -> int:
        return len(batch.segments.leaves)

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        scores = outputs.scores[:, 0]
        wanted = scores.new_tensor([each for label in batch.labels for each in label])  # [N]
        losses = F.binary_cross_entropy_with_logits(scores, wanted, reduction='none')
        count = scores.new_tensor(len(scores))
        right = ((scores > 0) == (wanted > 0.5)).sum()
        metrics = {'loss': (losses.sum().detach(), count), 'acc': (right, count)}
        return Loss(losses.sum(), metrics | _ranked(scores, batch))


class Listwise:
    """-log softmax(s / t)_p over the documents of a query, the mean over queries: p the relevant one.

    ListNet's top-one loss with one relevant document: Cao et al., ICML 2007, section 4.2. Queries with fewer than
    ``smallest`` documents, or without a relevant one, do not count; of several relevant ones, the first is p.
    """

    needs = frozenset({'scores'})

    def __init__(self, *, temperature: float = 1.0, smallest: int = 2):
        self.temperature, self.smallest = temperature, smallest

    def count(self, batch: Batch) -> int:
        return sum(1 for _ in self._groups(batch))

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        scores, groups = outputs.scores[:, 0], list(self._groups(batch))
        total, right = scores[:0].sum(), 0
        for first, end, place in groups:
            own = scores[first:end] / self.temperature
            total = total - F.log_softmax(own, 0)[place]
            right = right + (own.argmax() == place)
        count = scores.new_tensor(len(groups))
        metrics = {'loss': (total.detach(), count), 'acc': (torch.as_tensor(right), count)}
        return Loss(total, metrics | _ranked(scores, batch))

    def _groups(self, batch: Batch) -> Iterator[tuple[int, int, int]]:
        """First and last document, the latter exclusive, and the place of the relevant one, of queries that count."""
        for (first, end), label in zip(batch.spans(), batch.labels, strict=True):
            if end - first >= self.smallest and 1.0 in label:
                yield first, end, label.index(1.0)


def _ranked(scores: Tensor, batch: Batch) -> dict[str, Pair]:
    """MRR and NDCG over the queries that have relevant and other documents."""
    spans = zip(batch.spans(), batch.labels, strict=True)
    rows = [(span, label) for span, label in spans if any(label) and not all(label)]
    if not rows:
        return {}
    own = pad_sequence([scores.detach()[slice(*span)] for span, _ in rows], batch_first=True, padding_value=-torch.inf)
    relevance = pad_sequence([own.new_tensor(label) for _, label in rows], batch_first=True)
    count = own.new_tensor(len(rows))
    return {'mrr': (reciprocal_ranks(own, relevance).sum(), count), 'ndcg': (ndcg(own, relevance).sum(), count)}


def reciprocal_ranks(scores: Tensor, relevance: Tensor) -> Tensor:
    """1 / rank of the best relevant document, [G]: those that score more stand before it. Arguments as of ``ndcg``."""
    best = scores.masked_fill(relevance <= 0, -torch.inf).amax(1, keepdim=True)
    return 1 / (1 + (scores > best).sum(1))


def ndcg(scores: Tensor, relevance: Tensor) -> Tensor:
    """DCG / ideal DCG, [G], DCG = sum_i (2^rel_i - 1) / log2(i + 1), i the place by falling score.

    Burges et al., ICML 2005, section 5.2.

    Args:
        scores: [G, m], -inf where a query has fewer documents; relevance: [G, m], 0 there.
    """
    gains = 2**relevance - 1
    discounts = 1 / torch.log2(torch.arange(2, gains.shape[1] + 2, device=gains.device, dtype=gains.dtype))
    found = gains.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return (found * discounts).sum(1) / (gains.sort(1, descending=True).values * discounts).sum(1)


def from_args(args: TaskArgs) -> Pointwise | Listwise:
    """The objective of a reranker by ``--loss_type``."""
    if args.loss_type == 'listwise_reranker':
        return Listwise(temperature=args.listwise_reranker_temperature, smallest=args.listwise_reranker_min_group_size)
    return Pointwise()
