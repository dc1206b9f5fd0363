"""What the names of optimizers stand for."""

import pytest
import torch
from torch.nn import Parameter

from swift.core.errors import ConfigError
from swift.train import optim


def trained(name, steps=100):
    """Distance from the goal after some steps, and the optimizer."""
    goal = torch.linspace(-1, 1, 64)
    weight = Parameter(torch.zeros(64))
    groups = [{'params': [weight], 'lr': 0.05, 'weight_decay': 0.0}]
    optimizer = optim.make(name, groups, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(steps):
        weight.grad = weight.detach() - goal
        optimizer.step()
    return float((weight - goal).norm()), optimizer.state[weight]


@pytest.mark.parametrize('name', ['adamw_torch_fused', 'adamw_torch', 'adamw_bf16', 'sgd'])
def test_every_optimizer_comes_nearer(name):
    far, _ = trained(name, 1)
    near, _ = trained(name)
    assert near < far / 10


def test_bf16_moments_take_half_the_memory_and_lead_to_the_same_place():
    full, kept = trained('adamw_torch')
    short, halved = trained('adamw_bf16')
    assert abs(short - full) < 0.05
    for name in ('exp_avg', 'exp_avg_sq'):
        assert halved[name].dtype == torch.bfloat16 and 2 * halved[name].nbytes == kept[name].nbytes


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match='adamw_bf6: unknown; did you mean adamw_bf16'):
        optim.make('adamw_bf6', [], lr=1.0, betas=(0.9, 0.9), eps=1e-8)
