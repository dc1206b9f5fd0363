"""Every schedule against transformers' own, step by step."""

import pytest
import torch
from transformers import get_scheduler

from swift.core.errors import ConfigError
from swift.train.schedule import factor

CASES = [
    ('linear', 3, {}),
    ('cosine', 0, {}),
    ('cosine', 5, {}),
    ('cosine_with_restarts', 2, {'num_cycles': 3}),
    ('cosine_with_min_lr', 2, {'min_lr': 1e-5}),
    ('cosine_with_min_lr', 2, {'min_lr_rate': 0.1}),
    ('polynomial', 2, {'power': 2.0}),
    ('constant', 0, {}),
    ('constant_with_warmup', 4, {}),
    ('inverse_sqrt', 4, {}),
    ('warmup_stable_decay', 4, {'num_decay_steps': 6, 'decay_type': '1-sqrt'}),
    ('warmup_stable_decay', 4, {'num_decay_steps': 6, 'min_lr_ratio': 0.2}),
]


@pytest.mark.parametrize(('name', 'warmup', 'kwargs'), CASES)
def test_rates_equal_transformers(name, warmup, kwargs):
    peak, total = 1e-3, 25
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=dict(kwargs)
    )
    for step in range(total):
        ours = peak * factor(name, step, total=total, warmup=warmup, peak=peak, **kwargs)
        assert ours == pytest.approx(optimizer.param_groups[0]['lr'], rel=1e-12, abs=1e-18), step
        optimizer.step()
        theirs.step()


def test_an_unknown_schedule_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match='did you mean cosine'):
        factor('cosin', 0, total=10, warmup=0, peak=1.0)
