"""The loss of distillation against numbers written out by hand."""

import math

import pytest
import torch

from swift.core.types import Batch, Outputs, Segments
from swift.objectives.distill import OWN, Distillation, from_args
from swift.objectives.distill_args import DistillArgs

WEIGHT = [0.0, 1.0, 2.0, 0.0, 0.0, 0.5]
APART = [0.0, 0.3, 0.1, 0.0, 0.0, 0.7]
LOGPS = [0.0, math.log(0.5), math.log(0.25), 0.0, 0.0, math.log(0.2)]


def batch(**streams):
    return Batch(
        input_ids=torch.arange(6),
        position_ids=torch.tensor([0, 1, 2, 0, 1, 2]),
        segments=Segments((3, 3)),
        weight=torch.tensor(WEIGHT, dtype=torch.float64),
        streams=streams,
    )


def outputs():
    return Outputs(torch.tensor(LOGPS, dtype=torch.float64), divergence=torch.tensor(APART, dtype=torch.float64))


def test_the_loss_is_the_weighted_sum_and_the_divisor_counts_targets():
    objective = from_args(DistillArgs())
    loss = objective(outputs(), batch())
    assert objective.needs == {'divergence'}
    assert objective.count(batch()) == 3
    assert float(loss.total) == pytest.approx(0.3 + 2 * 0.1 + 0.5 * 0.7)
    assert set(loss.metrics) == {'loss', 'divergence'}


@pytest.mark.parametrize(('own', 'plain'), [(None, 3), ([1, 1, 1, 1, 1, 1], 0), ([1, 1, 1, 0, 0, 0], 1)])
def test_the_plain_loss_is_added_where_the_student_did_not_write_itself(own, plain):
    objective = from_args(DistillArgs(sft_alpha=0.1))
    assert objective.needs == {'divergence', 'logps'}
    given = batch() if own is None else batch(**{OWN: torch.tensor(own, dtype=torch.bool)})
    loss = objective(outputs(), given)
    nll = sum(-w * p for w, p, mine in zip(WEIGHT, LOGPS, own or [0] * 6, strict=True) if not mine)
    assert float(loss.total) == pytest.approx(0.85 + 0.1 * nll)
    assert float(loss.metrics['divergence'][0]) == pytest.approx(0.85)
    assert [float(x) for x in loss.metrics['sft_loss']] == pytest.approx([nll, plain])


def test_the_part_that_the_student_wrote_is_told():
    loss = Distillation()(outputs(), batch(**{OWN: torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)}))
    assert [float(x) for x in loss.metrics['on_policy']] == [2, 3]
