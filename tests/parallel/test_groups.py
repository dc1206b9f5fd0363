"""Sequences that share a prefix: the same loss and gradients as whole sequences, whoever computes them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from swift.core.types import Encoded, Loss, Origin
from swift.data.collate import collate
from swift.data.groups import group
from swift.parallel import layout, reference
from tests import tiny
from tests.parallel.test_one_device import backend

PROMPT = np.arange(3, 33) * 11 % 400
ANSWERS = [np.arange(n) * 13 % 390 + k for k, n in enumerate((4, 7, 1, 12))]


def sequence(prompt, answer):
    ids = np.concatenate([prompt, answer]).astype(np.int32)
    weight = np.concatenate([np.zeros(len(prompt)), np.linspace(0.5, 1.5, len(answer))]).astype(np.float32)
    weight[20:22] = 0.25  # an earlier answer, which carries loss in every sequence
    return Encoded(ids, weight, np.zeros(len(ids), np.uint8), Origin('x', 1))


def groups(share):
    rows = [[sequence(PROMPT, each) for each in ANSWERS[:2]], [sequence(PROMPT[5:], each) for each in ANSWERS]]
    return [group(members, share=share) for members in rows]


class SquaredSums:
    """A loss that is no sum over tokens."""

    needs = frozenset({'logps'})

    def count(self, batch):
        return len(batch.segments.leaves)

    def __call__(self, outputs, batch):
        sums = batch.per_sequence(batch.weight * outputs.logps)
        total = (sums * sums).sum() / 100
        return Loss(total, {'loss': (total.detach(), torch.tensor(len(sums)))})


def gradients(made, batches):
    metrics = made.forward_backward(batches, SquaredSums())
    found = {name: master.grad.clone() for name, master in made.masters.items()}
    for master in made.masters.values():
        master.grad = None
    return float(metrics['loss'][0]), found


def test_a_group_lays_its_common_prefix_down_once():
    shared, apart = groups(True)[0], groups(False)[0]
    assert shared.segments.lengths == (30, 4, 7) and shared.segments.prefix_of == (-1, 0, 0)
    assert apart.segments.lengths == (34, 37) and not apart.segments.prefix_of
    batch = collate([shared, apart])
    assert batch.groups == (2, 2) and batch.spans() == ((0, 2), (2, 4))
    assert batch.position_ids[30:41].tolist() == [*range(30, 34), *range(30, 37)]
    sums = batch.per_sequence(batch.weight)
    torch.testing.assert_close(sums[:2], sums[2:])


def test_weights_that_differ_end_the_common_prefix():
    one, other = sequence(PROMPT, ANSWERS[0]), sequence(PROMPT, ANSWERS[1])
    other.weight[12] = 1.0
    assert group([one, other]).segments.lengths[0] == 12


@pytest.mark.parametrize('architecture', tiny.SIZES)
@pytest.mark.parametrize('lora', [False, True], ids=['full', 'lora'])
def test_shared_prefixes_give_the_loss_and_gradient_of_whole_sequences(architecture, lora):
    tolerance = 1e-6  # norms round to fp32 whatever the weights
    plain = backend(architecture, lora=lora, attn_impl='eager')
    loss, expected = gradients(plain, [collate(groups(False))])
    made = backend(architecture, lora=lora)
    refusing = backend(architecture, lora=lora, prefix_sharing=False)
    assert made.runner.unshared_reason() is None and refusing.runner.unshared_reason() is not None
    for each in (made, refusing, plain):
        for batches in ([collate(groups(True))], [collate([row]) for row in groups(True)]):
            found_loss, found = gradients(each, batches)
            assert found_loss == pytest.approx(loss, rel=tolerance)
            for name, grad in expected.items():
                assert float((found[name] - grad).norm()) <= tolerance * max(1e-3, float(grad.norm())), name


def test_outputs_keep_the_layout_of_the_batch_when_prefixes_are_repeated():
    batch = collate(groups(True))
    made, plain = backend(), backend(attn_impl='eager')
    [found], [expected] = made.forward([batch]), plain.forward([batch])
    torch.testing.assert_close(found.logps, expected.logps, rtol=1e-9, atol=1e-12)
    whole, back = layout.unshared(batch)
    assert torch.equal(whole.input_ids[back], batch.input_ids)
    assert whole.segments.lengths == (34, 37, 29, 32, 26, 37)


def test_the_reference_is_the_model_without_its_adapter():
    batch = collate(groups(True))
    made = backend(lora=True)
    base = backend()
    [found] = reference.switched(made)([batch])
    [expected] = base.forward([batch])
    [policy] = made.forward([batch])
    torch.testing.assert_close(found, expected.logps, rtol=1e-12, atol=1e-12)
    assert float((policy.logps - found).abs().max()) > 1e-3
    assert all(p.requires_grad for p in made.trained.values())


def test_places_follow_the_rows_into_balanced_micro_batches():
    from swift.data.collate import micro_batches

    rows = [replace(row, label=(float(i),)) for i, row in enumerate(groups(True) * 3)]
    for batches in (micro_batches([[row] for row in rows], 2), micro_batches([[row] for row in rows], 1, 120)):
        found = sorted(zip([p for b in batches for p in b.places], [x for b in batches for x in b.labels], strict=True))
        assert found == [(i, (float(i),)) for i in range(6)]
