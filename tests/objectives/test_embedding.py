"""Losses of embedding models: against NumPy written from the formulas, against peers, and however a step is split."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives.args import TaskArgs
from swift.objectives.embedding import LOSSES, Embed, Rows, infonce
from tests.objectives import peers_of_tasks as peers

SIZES = (4, 3, 3, 2)
LABELS = (1.0, 0.0, 1.0, 0.0)


def embeddings(count: int = sum(SIZES), width: int = 6, seed: int = 7) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=draw, dtype=torch.float64), dim=-1)


def batch(sizes=SIZES, labels=LABELS, places=None) -> Batch:
    """A batch of these rows, one token a sequence."""
    count = sum(sizes)
    return Batch(
        torch.arange(count),
        torch.zeros(count, dtype=torch.int64),
        Segments((1,) * count),
        torch.ones(count),
        groups=tuple(sizes),
        labels=tuple((label,) for label in labels),
        places=tuple(places or range(len(sizes))),
    )


def value(args: TaskArgs, e: torch.Tensor, sizes=SIZES, labels=LABELS) -> float:
    objective, one = Embed(args), batch(sizes, labels)
    return float(objective(Outputs(pooled=e), one).total) / objective.count(one)


# ------------------------------------------------------------------------------------------------- independent formulas
def cos(u, v) -> float:
    return float(u @ v / np.sqrt((u @ u) * (v @ v)))


def pairs(e, sizes, labels):
    at = 0
    for size, label in zip(sizes, labels, strict=True):
        for i in range(1, size):
            yield cos(e[at], e[at + i]), label if i == 1 else 0.0
        at += size


def numpy_infonce(e, sizes, t, *, qq=False, dd=False, mask=None, batch=True) -> float:
    starts = np.cumsum([0, *sizes[:-1]])
    documents = [
        (row, at + i) for row, (at, size) in enumerate(zip(starts, sizes, strict=True)) for i in range(1, size)
    ]
    losses = []
    for row, at in enumerate(starts):
        own = cos(e[at], e[at + 1])
        counts = lambda c, own=own: mask is None or c <= own + mask
        z = [cos(e[at], e[d]) for r, d in documents if (batch or r == row) and counts(cos(e[at], e[d]))]
        if qq:
            z += [cos(e[at], e[a]) for a in starts if a != at and counts(cos(e[at], e[a]))]
        if dd:
            z += [cos(e[at + 1], e[d]) for _, d in documents if d != at + 1]
        losses.append(-own / t + math.log(sum(math.exp(c / t) for c in z)))
    return float(np.mean(losses))


def test_losses_of_pairs_are_their_formulas():
    e = embeddings()
    found = {name: value(TaskArgs(loss_type=name), e) for name in ('cosine_similarity', 'contrastive')}
    several = list(pairs(e.numpy(), SIZES, LABELS))
    assert found['cosine_similarity'] == pytest.approx(np.mean([(c - y) ** 2 for c, y in several]))
    hadsell = [y * (1 - c) ** 2 / 2 + (1 - y) * max(0, 0.5 - (1 - c)) ** 2 / 2 for c, y in several]
    assert found['contrastive'] == pytest.approx(np.mean(hadsell))


def test_the_online_form_sums_the_hard_pairs_only():
    e = embeddings(width=3)
    distances = [(1 - c, y) for c, y in pairs(e.numpy(), SIZES, LABELS)]
    alike, other = ([d for d, y in distances if y == wanted] for wanted in (1.0, 0.0))
    expected = sum(d**2 for d in alike if d > min(other))
    expected += sum(max(0, 0.5 - d) ** 2 for d in other if d < max(alike))
    assert value(TaskArgs(loss_type='online_contrastive'), e) == pytest.approx(expected)


def test_the_triplet_loss_wants_every_negative_farther_than_the_positive_by_a_margin():
    e = embeddings()
    found, at, vectors = [], 0, e.numpy()
    for size in SIZES:
        for i in range(2, size):
            near, far = cos(vectors[at], vectors[at + 1]), cos(vectors[at], vectors[at + i])
            found.append(max(0, (1 - near) - (1 - far) + 0.5))
        at += size
    assert value(TaskArgs(loss_type='triplet'), e) == pytest.approx(np.mean(found))


@pytest.mark.parametrize(
    ('flags', 'formula'),
    [
        ({}, {}),
        ({'infonce_use_batch': False}, {'batch': False}),
        ({'infonce_include_qq': True}, {'qq': True}),
        ({'infonce_include_dd': True}, {'dd': True}),
        ({'infonce_mask_fake_negative': True}, {'mask': 0.1}),
        (
            {'infonce_mask_fake_negative': True, 'infonce_include_qq': True, 'infonce_fake_neg_margin': 0.0},
            {'mask': 0.0, 'qq': True},
        ),
    ],
)
def test_infonce_is_its_formula(flags, formula):
    e = embeddings()
    found = value(TaskArgs(infonce_temperature=0.2, **flags), e)
    assert found == pytest.approx(numpy_infonce(e.numpy(), SIZES, 0.2, **formula))


def test_hard_negatives_are_cut_or_repeated():
    e = embeddings()
    cut = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    found = value(TaskArgs(infonce_hard_negatives=1), e)
    assert found == pytest.approx(numpy_infonce(e[cut].numpy(), (3, 3, 3, 2), 0.1))
    twice = [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11]
    found = value(TaskArgs(infonce_hard_negatives=2), e)
    assert found == pytest.approx(numpy_infonce(e[twice].numpy(), (4, 4, 4, 2), 0.1))


def test_matryoshka_adds_the_losses_of_shorter_embeddings_by_weight():
    e = embeddings()
    whole = value(TaskArgs(mrl_dims='{"2": 0.5, "6": 2}'), e)
    assert whole == pytest.approx(0.5 * value(TaskArgs(), e[:, :2]) + 2 * value(TaskArgs(), e))


@pytest.mark.parametrize('name', LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    rows, how = Rows(SIZES, LABELS), TaskArgs(loss_type=name, infonce_include_qq=True)
    losses = lambda e: LOSSES[name].losses(e, rows, how).sum()
    assert torch.autograd.gradcheck(losses, embeddings().requires_grad_())


# ------------------------------------------------------------------------------------------------------ the whole step
def step_of(split: list[list[int]]) -> tuple[list[Batch], list[list[int]]]:
    """Batches of the rows in ``split``, and which embeddings each has."""
    starts = np.cumsum([0, *SIZES])
    made = [batch([SIZES[i] for i in part], [LABELS[i] for i in part], part) for part in split]
    return made, [[j for i in part for j in range(starts[i], starts[i + 1])] for part in split]


def trained(args: TaskArgs, split: list[list[int]]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a step that is split so, as a backend computes them."""
    objective, weights = Embed(args), embeddings().requires_grad_()
    step, where = step_of(split)
    forward = lambda _: [Outputs(pooled=weights.detach()[each]) for each in where]
    streams = objective.prepare(step, forward, None)
    count, total = sum(map(objective.count, step)), 0.0
    for each, more, at in zip(step, streams, where, strict=True):
        loss = objective(Outputs(pooled=weights[at]), replace(each, streams=more))
        (loss.total / count).backward()
        total += float(loss.total.detach()) / count
    return total, weights.grad


@pytest.mark.parametrize('flags', [{'infonce_include_qq': True}, {'mrl_dims': {'3': 1.0, '6': 1.0}}])
@pytest.mark.parametrize('name', LOSSES)
def test_how_a_step_is_split_changes_neither_loss_nor_gradient(name, flags):
    args = TaskArgs(loss_type=name, **flags)
    whole = trained(args, [[0, 1, 2, 3]])
    for split in ([[0], [1], [2], [3]], [[3, 1], [0, 2]], [[2], [0, 1, 3]]):
        found = trained(args, split)
        assert found[0] == pytest.approx(whole[0], rel=1e-12)
        torch.testing.assert_close(found[1], whole[1], atol=1e-12, rtol=1e-10)


def test_a_step_of_one_batch_is_passed_through_the_model_once():
    never = lambda step: pytest.fail('a second pass')
    assert Embed(TaskArgs()).prepare([batch()], never, None) == [{}]
    assert Embed(TaskArgs(infonce_use_batch=False)).prepare([batch(), batch()], never, None) == [{}, {}]


# --------------------------------------------------------------------------------------------------------------- peers
@pytest.mark.parametrize(('flags', 'expected'), peers.INFONCE)
def test_infonce_gives_the_numbers_of_ms_swift(flags, expected):
    e = torch.tensor(peers.EMBEDDINGS, dtype=torch.float64)
    assert value(TaskArgs(**flags), e, (4, 3, 3), (1.0,) * 3) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(('name', 'expected'), peers.PAIRS.items())
def test_losses_of_pairs_give_the_numbers_of_ms_swift(name, expected):
    e = torch.tensor(peers.EMBEDDINGS, dtype=torch.float64)
    assert value(TaskArgs(loss_type=name), e, (2,) * 5, (1, 0, 1, 0, 1)) == pytest.approx(expected, abs=1e-9)


def test_losses_give_the_numbers_of_sentence_transformers():
    losses = pytest.importorskip('sentence_transformers.sentence_transformer.losses')
    model, e = torch.nn.Identity(), embeddings(12)
    two, three = [e[0::2], e[1::2]], [e[0::3], e[1::3], e[2::3]]
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    told = lambda loss, parts, *labels: float(peers.of_sentence_transformers(loss, parts, *labels))
    ours = lambda name, sizes, **flags: value(
        TaskArgs(loss_type=name, **flags), e, sizes, labels[: len(sizes)].tolist()
    )
    expected = told(losses.MultipleNegativesRankingLoss(model, scale=20), three)
    assert ours('infonce', (3,) * 4, infonce_temperature=0.05) == pytest.approx(expected, abs=1e-9)
    for name, loss in {
        'cosine_similarity': losses.CosineSimilarityLoss(model),
        'contrastive': losses.ContrastiveLoss(model),
        'online_contrastive': losses.OnlineContrastiveLoss(model),
    }.items():
        assert ours(name, (2,) * 6) == pytest.approx(told(loss, two, labels), abs=1e-9)
    cosine = losses.TripletLoss(model, losses.TripletDistanceMetric.COSINE, triplet_margin=0.5)
    assert ours('triplet', (3,) * 4) == pytest.approx(told(cosine, three), abs=1e-9)


# ---------------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_ranks_each_positive_among_all_documents():
    e = torch.eye(4, dtype=torch.float64)
    near = torch.nn.functional.normalize(e + 0.2, dim=-1)
    objective = Embed(TaskArgs())
    good = [torch.stack([e[i], near[i]]) for i in range(4)]
    collected = [objective.collect(Outputs(pooled=each), batch((2,), (1.0,))) for each in good]
    found = objective.summary(collected)
    assert found['mrr'] == 1 and found['margin'] > 0 and found['mean_pos'] > found['mean_neg']
    swapped = [(np.stack([e[i], near[3 - i]]), Rows((2,), (1.0,))) for i in range(4)]
    assert objective.summary(swapped)['mrr'] < 1


def test_evaluation_of_pairs_correlates_with_the_labels():
    objective = Embed(TaskArgs(loss_type='cosine_similarity'))
    labels = (0.1, 0.5, 0.9)
    e = torch.tensor([[1.0, 0.0], [0.1, 0.9], [1.0, 0.0], [0.5, 0.8], [1.0, 0.0], [0.9, 0.3]])
    found = objective.summary([objective.collect(Outputs(pooled=e), batch((2,) * 3, labels))])
    assert found['spearman_cosine'] == pytest.approx(1) and 0.9 < found['pearson_cosine'] <= 1


def test_rows_of_different_sizes_are_grouped_by_their_own():
    rows = Rows((3, 2), (1.0, 0.3))
    assert rows.anchors == [0, 3]
    assert rows.pairs(torch.empty(0))[:2] == ([0, 0, 3], [1, 2, 4])
    losses = infonce(embeddings(5), rows, TaskArgs())
    assert losses.shape == (2,)
