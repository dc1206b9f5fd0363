"""What is known of a run's memory before it starts: the rehearsal that ``swift plan`` has kept, or an estimate."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import swift
from swift.commands import beside
from swift.commands.configs import SftConfig
from swift.core import cache
from swift.core.errors import OutOfMemory
from swift.core.log import get_logger, say
from swift.data.feeds import StoreFeed
from swift.models.info import max_length, read_config, text_part
from swift.plan import meter, report, shrink
from swift.plan.estimate import Run, estimate
from swift.plan.hardware import look
from swift.plan.predict import Plan, Rehearsed, predict
from swift.plan.work import Work, assumed, work

logger = get_logger(__name__)

FREE = (
    'output_dir', 'add_version', 'seed', 'num_train_epochs', 'max_steps', 'learning_rate', 'run_name', 'logging_dir',
    'logging_steps', 'save_steps', 'eval_steps', 'eval_strategy', 'metric_for_best_model', 'greater_is_better',
    'gradient_accumulation_steps', 'per_device_train_batch_size', 'warmup_ratio', 'warmup_steps', 'weight_decay',
    'hang_timeout', 'plan', 'rehearse',
)  # fmt: skip
"""Settings of training that change neither memory nor speed; the micro-batches themselves are counted apart."""


def foresee(cfg: SftConfig, folder: Path, source: Any, steps: int, device: str) -> float | None:
    """Say in a line whether the run fits, as the first lines of ``swift sft`` do.

    Returns:
        The part of the memory that it takes; None with ``--plan off``.

    Raises:
        OutOfMemory: it was rehearsed, does not fit, and ``--plan`` is ``refuse``.
    """
    if cfg.train.plan == 'off':
        return None
    held = meter.read(device).now
    todo = work(source, steps) if isinstance(source.feed, StoreFeed) else assume(cfg, folder)
    plan = find(cfg, folder, todo, base=held) or guess(cfg, folder, todo, base=held)
    if other := beside.second(cfg, folder):
        plan = other.added(plan)
    limit = room(device)
    text = report.verdict(plan, limit)
    say(f'{"plan":<13} {text}')
    if plan.peak <= limit:
        return plan.peak / limit
    hint = 'swift plan with the same flags says what to change; --plan off leaves this out'
    if cfg.train.plan == 'refuse' and plan.measured:
        raise OutOfMemory(f'the run {text}: {hint}')
    logger.warning('plan: the run %s: %s', text, hint)
    return plan.peak / max(1, limit)


def room(device: str) -> int:
    """Bytes that this process may hold on a device: what it holds, and what is free."""
    if device.startswith('cuda'):
        import torch

        return torch.cuda.mem_get_info()[0] + meter.read(device).now
    return look().memory_free + meter.read().now


def find(cfg: SftConfig, folder: Path, todo: Work, *, base: int) -> Plan | None:
    """The plan of a run whose rehearsal is in the cache."""
    config = read_config(folder)
    layers, kept = shrink.depth(config), place(cfg, config, todo)
    return read(kept, layers, todo, base) if layers and kept.is_file() else None


def read(kept: Path, layers: int, todo: Work, base: int | None) -> Plan:
    """The plan that a kept rehearsal makes; ``base`` as for ``predict``."""
    rehearsed = [Rehearsed(**each) for each in json.loads(kept.read_text(encoding='utf-8'))]
    return predict(rehearsed, layers=layers, base=base, work=todo)


def guess(cfg: SftConfig, folder: Path, todo: Work, *, base: int) -> Plan:
    """An estimate from config.json and the flags."""
    model, tuner, train = cfg.model, cfg.tuner, cfg.train
    moves = train.step_in_backward is not False and not train.max_grad_norm and train.optim.startswith('adamw_')
    run = Run(
        dtype=model.torch_dtype or 'bfloat16',
        rank=0 if tuner.tuner_type == 'full' else tuner.lora_rank,
        bits=model.quant_bits,
        recompute=bool(train.gradient_checkpointing),
        gradients=not (moves and all(len(stretch) == 1 for stretch in todo.stretches)),
    )
    return estimate(text_part(read_config(folder)), run, todo, base=base)


def place(cfg: SftConfig, config: dict[str, Any], todo: Work) -> Path:
    """Where a rehearsal is kept: the name changes with everything that it depends on."""
    import torch
    import transformers

    train = {name: value for name, value in vars(cfg.train).items() if name not in FREE}
    model = {name: value for name, value in vars(cfg.model).items() if name not in ('model', 'hub_token')}
    facts = [
        config,
        model,
        vars(cfg.tuner),
        train,
        asdict(todo)['stretches'],
        _code(),
        torch.get_num_threads(),
    ]
    versions = [torch.__version__, transformers.__version__]
    key = hashlib.sha256(json.dumps([facts, versions], sort_keys=True, default=str).encode()).hexdigest()
    return cache.folder('plan') / f'{key[:32]}.json'


def assume(cfg: SftConfig, folder: Path) -> Work:
    """Full micro-batches, where the data is not known before it is read."""
    length = cfg.data.packing_length if cfg.data.packing else None
    return assumed(
        longest=length or longest(cfg, folder),
        micro=cfg.data.max_tokens_per_batch,
        rows=cfg.train.per_device_train_batch_size,
    )


def longest(cfg: SftConfig, folder: Path) -> int:
    """Tokens of the longest sequence that a run can have."""
    return cfg.template.max_length or cfg.model.max_model_len or max_length(text_part(read_config(folder)))


def _code() -> str:
    """The program itself: what it needs changes with it."""
    found = hashlib.sha256()
    for path in sorted(Path(swift.__path__[0]).rglob('*')):
        if path.suffix in ('.py', '.cpp', '.h'):
            found.update(path.read_bytes())
    return found.hexdigest()
