"""``swift bench``: speed and memory beside other tools, on the same rows, in the same run.

swift bench prepare [peer ...]      an environment for each peer, once, in the cache
swift bench sft --quick | --full    the comparison of training
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from swift.bench.args import BenchArgs
from swift.commands.configs import resolve
from swift.core.errors import ConfigError, did_you_mean

MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct'


def main(args: Sequence[str] | None = None) -> int:
    """Do what the first word says."""
    words = list(sys.argv[1:] if args is None else args)
    plain = 0
    while plain < len(words) and not words[plain].startswith('--'):
        plain += 1
    what, names = words[0] if plain else '', words[1:plain]
    if what not in ACTIONS:
        raise ConfigError(f'swift bench {what}: expected one of {", ".join(ACTIONS)}{did_you_mean(what, ACTIONS)}')
    bench = resolve('bench', words[plain:]).bench
    if names and what != 'prepare':
        raise ConfigError(f'swift bench {what} {names[0]}: expected flags (--name value)')
    return ACTIONS[what](bench, names)


def sft(bench: BenchArgs, names: list[str]) -> int:
    """Measure, and print the tables. Returns 1 if first losses disagree or one of our own runs failed."""
    from swift.bench import compare, report

    plan = _plan(bench)
    found = compare.measure(plan, lambda text: print(text, flush=True))
    return report.write(found, plan.folder, sys.stdout)


def _plan(bench: BenchArgs):
    """The flags as a plan."""
    from swift import models
    from swift.bench import cells, compare, environments, peers, rows
    from swift.models.args import ModelArgs

    if bench.quick == bench.full:
        raise ConfigError('give --quick (ten minutes) or --full (every cell and side)')
    pythons = {peers.OURS: sys.executable, **environments.pythons(bench.peers, bench.peer_python)}
    chosen = cells.choose(bench)
    if not chosen:
        raise ConfigError(f'--cells {" ".join(bench.cells)}: expected some of {", ".join(cells.CELLS)}')
    builder = models.outline(ModelArgs(model=bench.model or MODEL))
    return compare.Plan(
        cells=chosen,
        sides=tuple(s for s in peers.SIDES if s.peer in pythons and (s.quick or bench.full)),
        pythons=pythons,
        model=builder.info.path,
        model_type=builder.info.model_type,
        conversations=rows.conversations(bench.dataset, bench.seed),
        tokenizer=builder.tokenizer,
        folder=compare.folder(Path(bench.output_dir or 'output/bench'), bench),
        repeats=bench.repeats or (2 if bench.quick else 3),
        seconds=compare.QUICK_SECONDS if bench.quick else float('inf'),
        threads=bench.threads or len(os.sched_getaffinity(0)),
        seed=bench.seed,
        learning_rate=bench.learning_rate,
        timeout=bench.timeout,
    )


def prepare(bench: BenchArgs, names: list[str]) -> int:
    """Build the environments of these peers. Returns 1 if one failed."""
    from swift.bench import environments

    return int(bool(environments.prepare(names, lambda text: print(text, flush=True))))


ACTIONS: dict[str, Callable[[BenchArgs, list[str]], int]] = {'prepare': prepare, 'sft': sft}
