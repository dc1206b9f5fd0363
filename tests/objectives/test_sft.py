"""Next-token loss against numbers written out by hand."""

import math

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives.sft import NextToken

LOGPS = [0.0, math.log(0.5), math.log(0.25), 0.0, math.log(0.1), math.log(0.2)]
WEIGHT = [0.0, 1.0, 2.0, 0.0, 0.0, 0.5]
CORRECT = [False, True, True, False, True, False]


def batch_and_outputs():
    batch = Batch(
        input_ids=torch.arange(6),
        position_ids=torch.tensor([0, 1, 2, 0, 1, 2]),
        segments=Segments((3, 3)),
        weight=torch.tensor(WEIGHT, dtype=torch.float64),
    )
    return batch, Outputs(torch.tensor(LOGPS, dtype=torch.float64), torch.tensor(CORRECT))


def test_the_loss_is_the_weighted_sum_and_the_divisor_counts_targets():
    batch, outputs = batch_and_outputs()
    objective = NextToken()
    loss = objective(outputs, batch)
    assert float(loss.total) == pytest.approx(-(math.log(0.5) + 2 * math.log(0.25) + 0.5 * math.log(0.2)))
    assert objective.count(batch) == 3


@pytest.mark.parametrize(('accuracy', 'expected'), [('token', (2, 3)), ('seq', (1, 2))])
def test_accuracy_counts_tokens_or_whole_sequences(accuracy, expected):
    batch, outputs = batch_and_outputs()
    right, counted = NextToken(accuracy=accuracy)(outputs, batch).metrics[f'{accuracy}_acc']
    assert (int(right), int(counted)) == expected


def test_dynamic_fine_tuning_weighs_each_token_by_its_own_probability_without_a_gradient_through_it():
    batch, outputs = batch_and_outputs()
    logits = torch.randn(6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    outputs.logps = torch.log_softmax(logits, -1)[torch.arange(6), batch.input_ids]
    loss = NextToken(dft=True)(outputs, batch)
    p = torch.softmax(logits.detach(), -1)
    right = p[torch.arange(6), batch.input_ids]
    assert float(loss.total) == pytest.approx(float(-(batch.weight * right * right.log()).sum()), rel=1e-12)
    # d/dz of -w sg(p_t) log p_t is -w p_t (onehot - p)
    pull = torch.nn.functional.one_hot(batch.input_ids, 11) - p
    (found,) = torch.autograd.grad(loss.total, logits)
    torch.testing.assert_close(found, -(batch.weight * right)[:, None] * pull, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('dft', [False, True])
def test_losses_by_channel_are_those_of_its_rows_alone_and_add_up_to_the_whole(dft):
    batch, outputs = batch_and_outputs()
    batch.channels = ('math', None)
    objective = NextToken(dft=dft, by_channel=True)
    metrics = objective(outputs, batch).metrics
    p = [math.exp(logp) if dft else 1.0 for logp in LOGPS]
    losses = [-weight * logp * share for weight, logp, share in zip(WEIGHT, LOGPS, p, strict=True)]
    assert float(metrics['loss_math'][0]) == pytest.approx(sum(losses[:3]))
    assert float(metrics['loss_None'][0]) == pytest.approx(sum(losses[3:]))
    assert [int(metrics[name][1]) for name in ('loss_math', 'loss_None')] == [2, 1]
    for part in (0, 1):
        whole = float(metrics['loss_math'][part] + metrics['loss_None'][part])
        assert whole == pytest.approx(float(metrics['loss'][part]))


def test_channels_are_counted_once_each_however_many_rows_of_them_a_batch_has():
    batch, outputs = batch_and_outputs()
    batch.channels = ('code', 'code')
    metrics = NextToken(by_channel=True)(outputs, batch).metrics
    assert [name for name in metrics if name.startswith('loss')] == ['loss', 'loss_code']
    assert float(metrics['loss_code'][0]) == pytest.approx(float(metrics['loss'][0]))
