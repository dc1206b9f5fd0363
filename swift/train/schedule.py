"""Learning-rate schedules: factor of the peak rate as a pure function of the step, so that there is no state.

Formulas and names are those of ``transformers.get_scheduler``. ``step`` counts from 0: the first step uses factor(0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from swift.core.errors import ConfigError, did_you_mean


def _linear(progress: float, **_: Any) -> float:
    return 1.0 - progress


def _cosine(progress: float, *, num_cycles: float = 0.5, **_: Any) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress)))


def _cosine_restarts(progress: float, *, num_cycles: int = 1, **_: Any) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((num_cycles * progress) % 1.0)))) if progress < 1.0 else 0.0


def _cosine_floor(
    progress: float, *, num_cycles: float = 0.5, min_lr_rate: float = 0.0, min_lr: float | None = None, peak: float
) -> float:
    floor = min_lr / peak if min_lr is not None else min_lr_rate
    return max(0.0, _cosine(progress, num_cycles=num_cycles) * (1 - floor) + floor)


def _polynomial(progress: float, *, lr_end: float = 1e-7, power: float = 1.0, peak: float) -> float:
    floor = lr_end / peak
    return (1 - floor) * (1 - progress) ** power + floor


DECAYS: dict[str, Callable[..., float]] = {
    'linear': _linear,
    'cosine': _cosine,
    'cosine_with_restarts': _cosine_restarts,
    'cosine_with_min_lr': _cosine_floor,
    'polynomial': _polynomial,
    'constant': lambda progress, **_: 1.0,
    'constant_with_warmup': lambda progress, **_: 1.0,
}
ANNEALS: dict[str, Callable[[float], float]] = {
    'linear': lambda x: 1.0 - x,
    'cosine': lambda x: 0.5 * (1.0 + math.cos(math.pi * x)),
    '1-sqrt': lambda x: 1.0 - math.sqrt(x),
}
NAMES = (*DECAYS, 'inverse_sqrt', 'warmup_stable_decay', 'wsd')


def factor(name: str, step: int, *, total: int, warmup: int, peak: float, **kwargs: Any) -> float:
    """Share of the peak learning rate at ``step`` of ``total`` steps, the first ``warmup`` of them rising from 0.

    Raises:
        ConfigError: for an unknown schedule.
    """
    if name in ('warmup_stable_decay', 'wsd'):
        return _stable(step, total, warmup, **kwargs)
    if name not in DECAYS and name != 'inverse_sqrt':
        raise ConfigError(f'--lr_scheduler_type {name}: unknown schedule{did_you_mean(name, NAMES)} Known: {NAMES}')
    if name == 'constant':
        return 1.0
    if step < warmup:
        return step / max(1, warmup)
    if name == 'inverse_sqrt':
        shift = kwargs.get('timescale', warmup or 10_000)
        return 1.0 / math.sqrt((step + shift - warmup) / shift)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return DECAYS[name](progress, peak=peak, **kwargs)


def _stable(
    step: int,
    total: int,
    warmup: int,
    *,
    num_decay_steps: int | None = None,
    num_stable_steps: int | None = None,
    min_lr_ratio: float = 0.0,
    decay_type: str = 'cosine',
    num_cycles: float = 0.5,
) -> float:
    """Warm-up, plateau, decay (MiniCPM, arXiv 2404.06395). The last tenth decays unless told otherwise."""
    decay = num_decay_steps if num_decay_steps is not None else max(1, total // 10)
    stable = num_stable_steps if num_stable_steps is not None else max(0, total - warmup - decay)
    if step < warmup:
        return min_lr_ratio + (1 - min_lr_ratio) * step / max(1, warmup)
    if step < warmup + stable:
        return 1.0
    done = min(1.0, (step - warmup - stable) / max(1, decay))
    shape = _cosine(done, num_cycles=num_cycles) if decay_type == 'cosine' else ANNEALS[decay_type](done)
    return max(min_lr_ratio, min_lr_ratio + (1 - min_lr_ratio) * shape)
