"""``swift bench``: speed and memory beside other tools, on the same rows, in the same run.

swift bench prepare [peer ...]      an environment for each peer, once, in the cache
swift bench sft --quick | --full    the comparison of training
swift bench dpo --quick | --full    the comparison of preference training, at three lengths of prompts
swift bench infer --quick | --full  the comparison of answering, at several numbers of streams
swift bench serve --quick | --full  load on a server, at multiples of what it can do
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Sequence
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
    return _compare(bench, 'sft')


def dpo(bench: BenchArgs, names: list[str]) -> int:
    """The same for preference pairs."""
    return _compare(bench, 'dpo')


def _compare(bench: BenchArgs, what: str) -> int:
    from swift.bench import compare, report

    plan = _plan(bench, what)
    found = compare.measure(plan, _say)
    return report.write(found, plan.folder, sys.stdout)


def _plan(bench: BenchArgs, what: str):
    """The flags as a plan."""
    from swift import models
    from swift.bench import cells, compare, environments, peers, rows
    from swift.models.args import ModelArgs

    if bench.quick == bench.full:
        raise ConfigError('give --quick (ten minutes) or --full (every cell and side)')
    pythons = {peers.OURS: sys.executable, **environments.pythons(bench.peers, bench.peer_python)}
    _check_cells(bench, cells.of(what))
    builder = models.outline(ModelArgs(model=bench.model or MODEL))
    return compare.Plan(
        cells=cells.choose(bench, what),
        sides=tuple(s for s in peers.SIDES if s.peer in pythons and (s.quick or bench.full)),
        pythons=pythons,
        model=builder.info.path,
        model_type=builder.info.model_type,
        conversations=rows.conversations(bench.dataset, bench.seed),
        tokenizer=builder.tokenizer,
        folder=compare.folder(Path(bench.output_dir or 'output/bench'), bench, what),
        repeats=bench.repeats or (2 if bench.quick else 3),
        seconds=compare.QUICK_SECONDS if bench.quick else float('inf'),
        threads=bench.threads or len(os.sched_getaffinity(0)),
        seed=bench.seed,
        learning_rate=bench.learning_rate,
        timeout=bench.timeout,
    )


def infer(bench: BenchArgs, names: list[str]) -> int:
    """Measure answers, and print the tables. Returns 1 if a run of ours failed or our answers are not the model's."""
    from swift import models
    from swift.bench import compare, environments, peers, rows, sheet
    from swift.bench import infer as room
    from swift.models.args import ModelArgs

    if bench.quick == bench.full:
        raise ConfigError('give --quick (two numbers of streams) or --full (four)')
    builder = models.outline(ModelArgs(model=bench.model or MODEL))
    texts = [turn['content'] for row in rows.conversations(bench.dataset, bench.seed) for turn in row]
    streams = room.QUICK_STREAMS if bench.quick else room.STREAMS
    plan = room.Plan(
        model=builder.info.path,
        prompts=room.prompts(builder.tokenizer, texts, max(streams)),
        streams=streams,
        pythons={peers.OURS: sys.executable, **environments.pythons(bench.peers, bench.peer_python)},
        folder=compare.folder(Path(bench.output_dir or 'output/bench'), bench, 'infer'),
        repeats=bench.repeats or (1 if bench.quick else 3),
        threads=bench.threads or len(os.sched_getaffinity(0)),
        timeout=bench.timeout,
    )
    found = room.measure(plan, _say)
    sheet.write(found, plan.folder, room.sections(found), room.panels(found), sys.stdout)
    return int(room.wrong(found))


def serve(bench: BenchArgs, names: list[str]) -> int:
    """Put a server under load, and print the tables. Returns 1 if a request failed or the canary's answer changed."""
    from swift.bench import compare, rows, sheet
    from swift.bench import serve as room

    if bench.quick == bench.full:
        raise ConfigError('give --quick (20 seconds at each load) or --full (a minute)')
    folder = compare.folder(Path(bench.output_dir or 'output/bench'), bench, 'serve')
    threads = bench.threads or len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        url, pid = bench.url, None
        if url is None:
            _say(f'swift deploy --model {bench.model or MODEL}')
            url, pid = stack.enter_context(room.deployed(bench.model or MODEL, folder, threads, bench.timeout))
        plan = room.Plan(
            url=url,
            model=bench.model if bench.url else None,
            texts=room.questions(rows.conversations(bench.dataset, bench.seed)),
            folder=folder,
            seconds=20.0 if bench.quick else 60.0,
            pid=pid,
            seed=bench.seed,
            threads=threads,
        )
        found = room.measure(plan, _say)
    sheet.write(found, folder, room.sections(found), room.panels(found), sys.stdout)
    return int(room.wrong(found))


def prepare(bench: BenchArgs, names: list[str]) -> int:
    """Build the environments of these peers. Returns 1 if one failed."""
    from swift.bench import environments

    return int(bool(environments.prepare(names, _say)))


def gpu(bench: BenchArgs, names: list[str]) -> int:
    """Measure on a GPU, and print the tables."""
    from swift.bench import compare, report
    from swift.bench import gpu as room

    _check_cells(bench, [cell.name for cell in room.CELLS])
    folder = compare.folder(Path(bench.output_dir or 'output/bench'), bench)
    found = room.measure(
        folder, bench.device or 'cuda', bench.cells,
        tiny=bench.tiny, repeats=bench.repeats or 2, timeout=bench.timeout, seed=bench.seed, say=_say,
    )  # fmt: skip
    return report.write(found, folder, sys.stdout)


def kernels(bench: BenchArgs, names: list[str]) -> int:
    """Time each kernel against eager. Returns 1 if one gives wrong numbers, whatever the times are."""
    from swift.bench import cases
    from swift.bench import kernels as room
    from swift.core.table import table

    _check_cells(bench, cases.CASES)
    device = bench.device or 'cpu'
    shapes = ['tiny'] if bench.tiny else ['SmolLM2-135M', *(['Llama-3-8B'] if bench.full or device != 'cpu' else [])]
    results = list(room.measure(bench.cells, shapes, device, tries=bench.repeats or (5 if bench.quick else 20)))
    print('\n'.join(table(room.table_of(results), cells=200)))
    return int(not all(each.right for each in results))


def _check_cells(bench: BenchArgs, known: Collection[str]) -> None:
    for name in bench.cells:
        if name not in known:
            raise ConfigError(f'--cells {name}: expected some of {", ".join(known)}{did_you_mean(name, known)}')


def _say(text: str) -> None:
    print(text, flush=True)


ACTIONS: dict[str, Callable[[BenchArgs, list[str]], int]] = {
    'prepare': prepare,
    'sft': sft,
    'dpo': dpo,
    'infer': infer,
    'serve': serve,
    'kernels': kernels,
    'gpu': gpu,
}
