"""How well scores, classes and embeddings agree with what was wanted, over a whole evaluation. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROWS = 1024
"""Queries that are compared with all documents at once."""


def macro_f1(found: np.ndarray, wanted: np.ndarray) -> float:
    """The mean over classes of 2 tp / (2 tp + fp + fn), over the classes that are found or wanted at all.

    Args:
        found, wanted: [N] classes, or [N, C] whether each class is there.
    """
    if found.ndim == 1:
        classes = np.union1d(found, wanted)
        found, wanted = (each[:, None] == classes for each in (found, wanted))
    found, wanted = found.astype(bool), wanted.astype(bool)
    hits, both = (found & wanted).sum(0), found.sum(0) + wanted.sum(0)
    there = both > 0
    return float((2 * hits[there] / both[there]).mean()) if there.any() else 0.0


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; not a number where one side does not vary."""
    x, y = (each.astype(np.float64) - each.mean() for each in (x, y))
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if size > 0 else float('nan')


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's: Pearson's of the ranks, equal values sharing the mean of theirs."""
    return pearson(_ranks(x), _ranks(y))


def correlations(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Of predicted with wanted numbers."""
    error = float(np.abs(found.astype(np.float64) - wanted).mean())
    return {'pearson': pearson(found, wanted), 'spearman': spearman(found, wanted), 'mae': error}


def paired(one: np.ndarray, other: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Correlations of four ways of being alike, of vectors [N, d] and [N, d], with wanted scores [N]."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    dot = (one * other).sum(-1)
    alike = {
        'cosine': dot / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)).clip(1e-12),
        'euclidean': -np.linalg.norm(one - other, axis=-1),
        'manhattan': -np.abs(one - other).sum(-1),
        'dot_product': dot,
    }
    return {f'pearson_{name}': pearson(each, wanted) for name, each in alike.items()} | {
        f'spearman_{name}': spearman(each, wanted) for name, each in alike.items()
    }


def retrieval(queries: np.ndarray, documents: np.ndarray, positives: np.ndarray) -> dict[str, float]:
    """Finding each query's document among those of all: vectors [G, d] and [D, d], and int [G] which one is right.

    ``mrr`` is the mean of 1 / rank, ``margin`` of the lead over the best wrong document.
    """
    ranks, right, lead, wrong = [], [], [], 0.0
    for start in range(0, len(queries), ROWS):
        here = slice(start, start + ROWS)
        alike = queries[here].astype(np.float64) @ documents.T.astype(np.float64)  # [g, D]
        rows, mine = np.arange(len(alike)), positives[here]
        own = alike[rows, mine]
        wrong += alike.sum() - own.sum()
        ranks.append(1 + (alike > own[:, None]).sum(1))
        right.append(own)
        alike[rows, mine] = -np.inf
        lead.append(own - alike.max(1))
    others = max(1, len(queries) * (len(documents) - 1))
    found = {
        'mrr': float((1 / np.concatenate(ranks)).mean()),
        'margin': float(np.concatenate(lead).mean()),
        'mean_pos': float(np.concatenate(right).mean()),
        'mean_neg': float(wrong / others),
    }
    return found if len(documents) > 1 else {'mean_pos': found['mean_pos']}


def _ranks(x: Sequence[float] | np.ndarray) -> np.ndarray:
    """From 0, equal values sharing the mean of their ranks."""
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[places]
