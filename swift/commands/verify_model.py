"""swift verify with a model: the first rows of its data as a run would take them, computed in every way there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swift.commands import configs, distillation, methods, reference, sft
from swift.commands.configs import SftConfig, VerifyConfig
from swift.commands.prepare import Prepared, prepare
from swift.core.errors import ConfigError, RowError
from swift.core.flags import groups_of
from swift.core.types import Encoded
from swift.verify.finding import Finding

if TYPE_CHECKING:
    from swift.verify.layouts import Distance, Step

PART = 'way'
ALLOWED = {'float64': (1e-10, 1e-10), 'float32': (1e-5, 1e-4), 'bfloat16': (2e-2, 0.25), 'float16': (2e-2, 0.1)}
"""Relative differences of a loss and of a gradient, by the type that is computed in."""
MEAN = 1e-6
"""That of a loss in float32 that is a mean over tokens. One of sums over answers is farther from itself: a
log-probability of SmolLM2 differs by 5e-6 (rms) between two right ways, and that of an answer of 100 tokens by 5e-5."""
NUDGE = 1e-2
"""Standard deviation of what is added to weights that learn, so that a fresh adapter does something."""


def check(cfg: VerifyConfig) -> Iterator[Finding]:
    """What is found of the rows' masks, of the ways to compute a step, and of going on from a saved state."""
    from swift.verify import masks

    run = run_of(cfg)
    ready = prepare(run)
    rows = _first_rows(ready, cfg.verify.rows)
    read = methods.method(run).reads or str(run.template.loss_scale).startswith('all')
    yield from masks.check(rows, prompts=not read)
    step, allowed = _step(run, ready, rows), _allowed(run, ready)
    together = list(_compared('all kernels', step.together(), allowed))
    yield from together
    short = step.short()
    alone = step if any(each.failed for each in together) else short  # of whole rows, where something is wrong
    yield from _compared('packing', alone.packing(), allowed)
    for ways in (alone.kernels(), alone.layouts()):
        for name, far in ways:
            yield from _compared(name, far, allowed)
    far, where = short.resumption()
    yield Finding(part='state', name='the step after loading', what='weights', difference=far, note=f'most in {where}')


def _compared(name: str, far: Distance, allowed: tuple[float, float]) -> Iterator[Finding]:
    for what, difference, most in zip(('loss', 'gradient'), far, allowed, strict=False):
        note = f'most in {far.where}' if what == 'gradient' else ''
        yield Finding(part=PART, name=name, what=what, difference=difference, allowed=most, note=note)


def run_of(cfg: VerifyConfig) -> SftConfig:
    """The configuration of the run: that of ``swift rlhf`` where a method of alignment is given, else of ``swift sft``.

    Nothing random is left in it, and nothing that hides a difference.
    """
    kind = configs.CONFIGS[cfg.kin]
    if cfg.sources['torch_dtype'] == 'default' and not cfg.model.quant_bits:
        cfg.model.torch_dtype = 'float32'
    groups = {name: getattr(cfg, name) for name in groups_of(kind) if name in groups_of(type(cfg))}
    run = configs.resolve(cfg.kin, kind(**groups))
    still = {
        'lora_dropout': 0.0, 'neftune_noise_alpha': None, 'kernel_check': 'off', 'step_in_backward': False,
        'streaming': False,
    }  # fmt: skip
    for name, value in still.items():
        run.put(name, value, 'derived')
    return run


def _first_rows(ready: Prepared, count: int) -> list[Encoded]:
    """The first rows that can be trained on. Raises ConfigError if there is none."""
    rows: list[Encoded] = []
    for number in range(len(ready.train)):
        try:
            sample = ready.train.sample(number)
            rows += ready.encode(sample) if sample is not None else []
        except RowError:  # the lint of the run names it
            continue
        if len(rows) >= count:
            break
    if not rows:
        raise ConfigError('--dataset: none of its rows can be trained on; swift inspect shows why')
    return rows[:count]


def _step(run: SftConfig, ready: Prepared, rows: list[Encoded]) -> Step:
    """The model of the run with its objective and reference, and a step of these rows."""
    from swift.train.trainer import Pace
    from swift.verify.layouts import Step

    sft.seed_everything(run.train.seed)
    backend = sft._backend(run, ready, Pace(steps=100))
    objective = methods.objective(run)
    compared = reference.load(run, ready, objective, backend, [], lambda _: None)
    distillation.teach(run, ready, objective, backend)
    _still(backend.model)
    _nudge(backend)
    return Step(backend, objective, compared, rows)


def _still(model: Any) -> None:
    """No dropout in a model that is in training: two ways to compute a step would not draw the same."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, 'attention_dropout', None), float):
            module.attention_dropout = 0.0


def _nudge(backend: Any) -> None:
    """Move what learns a little away from where it starts."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in backend.trained.items():
            noise = torch.randn(weight.shape, generator=generator) * NUDGE * (float(weight.float().std()) or 1.0)
            weight.add_(noise.to(weight))
            if (master := backend.masters[name]) is not weight:
                master.copy_(weight)


def _allowed(run: SftConfig, ready: Prepared) -> tuple[float, float]:
    """By what the model computes in: autocast goes before the type of the weights."""
    dtype = 'bfloat16' if run.train.bf16 else 'float16' if run.train.fp16 else ready.builder.info.dtype
    loss, gradient = ALLOWED[dtype]
    return (MEAN if dtype == 'float32' and ready.rows is None else loss), gradient
