"""swift plan: how much memory a run will take at most, who holds it, how long it lasts, and what to change.

Takes the flags of ``swift sft``, and those of ``swift rlhf`` where ``--rlhf_type`` is one. The model needs no weights:
a model of its width with random weights takes the true steps in a process of its own, a large one twice with few
layers, as everything is linear in the layers.
What was measured is kept in the cache, where ``swift sft`` finds it for its first lines.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swift.commands import beside, configs, planned, sft
from swift.commands.configs import PlanConfig, SftConfig
from swift.commands.prepare import prepare
from swift.commands.rehearse import Job
from swift.core import files
from swift.core.errors import ModelError, OutOfMemory
from swift.core.log import get_logger, say
from swift.models.info import read_config
from swift.plan import allocator, meter, report, shrink
from swift.plan.ladder import Rung, rungs
from swift.plan.predict import Plan, Rehearsed
from swift.plan.work import Work, work

logger = get_logger(__name__)


def plan_main(args: Any = None) -> int:
    """Plan as ``swift plan`` does; ``args`` as for ``sft_main``."""
    return main(configs.resolve('plan', args))


def main(cfg: PlanConfig) -> int:
    """Print the plan, and the ladder where the run does not fit. Returns 0, or 77 when it does not fit."""
    allocator.steady()
    sft.choose_micro_batches(cfg)
    folder = beside.described(cfg.model)
    todo, base = _work(cfg, folder)
    plan = measure(cfg, folder, todo, base=base)
    limit = report.size(cfg.plan.memory) if cfg.plan.memory else planned.room(sft.device(use_cpu=cfg.train.use_cpu))
    steps: list[tuple[Rung, Plan]] = []
    if plan.peak > limit or cfg.plan.ladder:
        steps = list(_climb(cfg, folder, todo, base, limit=None if cfg.plan.ladder else limit))
    if cfg.plan.json:
        print(json.dumps(report.as_json(plan, steps, limit)))
    else:
        for line in report.lines(plan, steps, limit):
            say(line)
    return 0 if plan.peak <= limit else OutOfMemory.exit_code


# ------------------------------------------------------------------------------------------------------- measuring
def measure(cfg: SftConfig, folder: Path, todo: Work, *, base: int | None) -> Plan:
    """The plan of a run, rehearsed unless the cache has it.

    Args:
        folder: the model's, which may lack weights.
        base: what the run's process holds before the model comes; None when no data was read.
    """
    config = read_config(folder)
    layers, depths = shrink.depth(config), shrink.depths(config)
    if not layers:
        raise ModelError(f'{folder}: config.json does not say how many layers there are')
    kept = planned.place(cfg, config, todo)
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=_made(kept.parent)) as temp:
            measured = [asdict(_rehearse(cfg, folder, todo, count, Path(temp))) for count in depths]
        files.write(kept, json.dumps(measured, indent=1))
    plan, other = planned.read(kept, layers, todo, base), beside.second(cfg, folder)
    return other.added(plan) if other else plan


def _rehearse(cfg: SftConfig, folder: Path, todo: Work, layers: int, temp: Path) -> Rehearsed:
    """One rehearsal in a fresh process."""
    small = shrink.write(folder, temp / f'{layers}', layers, trust_remote_code=cfg.model.trust_remote_code)
    result = temp / f'{layers}.json'
    job = Job(cfg, small, layers, todo, planned.longest(cfg, folder))
    done = subprocess.run(
        [sys.executable, '-m', 'swift.commands.rehearse', str(result)],
        input=pickle.dumps(job),
        capture_output=True,
    )
    shutil.rmtree(small)
    if done.returncode or not result.is_file():
        told = done.stderr.decode(errors='replace').strip().splitlines()[-1:] or [f'exit code {done.returncode}']
        raise ModelError(f'the rehearsal with {layers} layers failed: {told[0]}')
    return Rehearsed(**json.loads(result.read_text(encoding='utf-8')))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---------------------------------------------------------------------------------------------------------- the run
def _work(cfg: SftConfig, folder: Path) -> tuple[Work, int | None]:
    """What the run will do, and the memory of this process, which has prepared all that the run prepares."""
    if not cfg.data.dataset:
        return planned.assume(cfg, folder), None
    ready = prepare(cfg, weights_needed=False)
    source, _ = sft._sources(cfg, ready)
    device = sft.device(use_cpu=cfg.train.use_cpu)
    return work(source, sft._pace(cfg, source).steps), meter.read(device).now


def _climb(
    cfg: SftConfig, folder: Path, todo: Work, base: int | None, *, limit: int | None
) -> Iterator[tuple[Rung, Plan]]:
    """The ladder: each change on top of those before it, until the run fits."""
    cfg = copy.deepcopy(cfg)
    for rung in rungs(cfg.get):
        for name, value in rung.flags.items():
            cfg.put(name, value, 'plan')
        todo = rung.work(todo)
        try:
            plan = measure(cfg, folder, todo, base=base)
        except ModelError as error:
            logger.warning('%s: %s', rung.title, error)
            continue
        yield rung, plan
        if limit is not None and plan.peak <= limit:
            return
