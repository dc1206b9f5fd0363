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
