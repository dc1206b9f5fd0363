"""Attention over pages against attention written out, in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swift.kernels.paged import Pass, Span, Store, attend
from swift.kernels.segmentwise import Rules

LENGTHS, STARTS = (70, 1, 33, 9, 9), (40, 0, 32, 3, 3)
PAGES = [np.array(held, np.int32) for held in ([7, 2, 5], [0], [8, 1], [3], [6])]


def written_out(q, k, v, rules, sinks):
    """One sequence [L, heads, D], row by row."""
    out = torch.zeros(*q.shape[:2], v.shape[2], dtype=q.dtype)
    for i in range(len(q)):
        first = 0 if rules.window is None else max(0, i - rules.window + 1)
        for h in range(q.shape[1]):
            key_head = h // (q.shape[1] // k.shape[1])
            scores = k[first : i + 1, key_head] @ q[i, h] * rules.scale
            scores = scores if rules.cap is None else rules.cap * torch.tanh(scores / rules.cap)
            weights = scores.exp()
            total = weights.sum() + (0 if sinks is None else sinks[h].exp())
            out[i, h] = (weights / total) @ v[first : i + 1, key_head]
    return out


def spans(counts, starts):
    firsts = np.cumsum([0, *counts])
    return [Span(int(firsts[i]), counts[i], starts[i], PAGES[i]) for i in range(len(counts))]


@pytest.mark.parametrize('rules', [{}, {'window': 7}, {'cap': 2.0}, {'sinks': True}, {'window': 5, 'cap': 3.0}])
@pytest.mark.parametrize(('heads', 'key_heads', 'width'), [(4, 4, 8), (6, 2, 5)])
def test_sequences_that_go_on_see_what_they_have_in_their_pages(rules, heads, key_heads, width):
    """Pages lie in any order, values have a width of their own, some sequences are computed together."""
    torch.manual_seed(0)
    sinks = torch.randn(heads, dtype=torch.float64) if rules.get('sinks') else None
    rules = Rules(0.3, **{**rules, 'sinks': sinks})
    texts = [
        [torch.randn(n, *shape, dtype=torch.float64) for shape in ((heads, width), (key_heads, width), (key_heads, 11))]
        for n in LENGTHS
    ]
    store = Store(9, torch.device('cpu'))
    k, v = (torch.cat([text[i] for text in texts]) for i in (1, 2))
    K, V = store.layer(0, k, v)
    slots = Pass(store, spans(LENGTHS, [0] * len(LENGTHS))).slots
    K[slots], V[slots] = k.flatten(1), v.flatten(1)
    counts = [n - start for n, start in zip(LENGTHS, STARTS, strict=True)]
    q = torch.cat([text[0][start:] for text, start in zip(texts, STARTS, strict=True)])
    found = torch.zeros(len(q), heads, 11, dtype=torch.float64)
    blocks = Pass(store, spans(counts, STARTS)).blocks
    assert len(blocks) == 3  # 30 rows; 1 and 1; 6 and 6
    for block in blocks:
        keys, values = (each[block.context].unflatten(-1, (key_heads, -1)) for each in (K, V))
        found[block.rows] = attend(q[block.rows], keys, values, block, rules)
    whole = [written_out(*text, rules, sinks)[start:] for text, start in zip(texts, STARTS, strict=True)]
    torch.testing.assert_close(found, torch.cat(whole), rtol=1e-9, atol=1e-9)


def test_a_page_is_copied_in_every_layer():
    store = Store(3, torch.device('cpu'))
    for layer in range(2):
        K, V = store.layer(layer, torch.zeros(1, 2, 4), torch.zeros(1, 2, 3))
        K[:32], V[:32] = 1.0 + layer, 5.0 + layer
    store.copy_page(0, 2)
    for layer in range(2):
        K, V = store.layer(layer, torch.zeros(1, 2, 4), torch.zeros(1, 2, 3))
        assert torch.equal(K[64:], K[:32]) and torch.equal(V[64:], V[:32]) and not K[32:64].any()
