"""The comparison: for every cell each side in turn, forwards and backwards, and what came of it as one value.

    measure(Plan) -> report (a dictionary, written as JSON)

Order: ABBA, so that a machine that slowly warms up or fills favours nobody. Every run is a file of its own in
``runs/``; a measurement that was stopped goes on with the runs that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swift.bench import process, rows
from swift.bench.args import BenchArgs
from swift.bench.cells import Cell
from swift.bench.dialect import Dialect, learn
from swift.bench.peers import DRIVERS, OURS, PEERS, Side
from swift.core import files

RANK, ALPHA, WEIGHT_DECAY, BETA2 = 8, 32, 0.1, 0.95  # the same for every tool
PACKAGE = Path(__file__).parents[1]
REPORT = 'report.json'
QUICK_SECONDS = 540  # when a quick measurement starts no more repeats


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``pythons``: peer -> its Python; ours is in it under ``ours``."""

    cells: tuple[Cell, ...]
    sides: tuple[Side, ...]
    pythons: Mapping[str, str]
    model: Path
    model_type: str
    conversations: Sequence[rows.Row]
    tokenizer: Any
    folder: Path
    repeats: int
    seconds: float  # no more repeats are started after this
    threads: int
    seed: int
    learning_rate: float
    timeout: float
    device: str = 'cpu'


def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything that is not there yet, and return the report."""
    started, load = time.time(), os.getloadavg()
    dialect = learn(plan.tokenizer, plan.conversations)
    if dialect is None:
        say('the chat template could not be read apart: each tool uses its own, and losses may differ by their masks')
    trains = any(cell.kind == 'train' for cell in plan.cells)
    probes = [_probe(plan, 'before', say)] if trains else []
    cells = {cell.name: _cell(plan, cell, dialect, started, say) for cell in plan.cells}
    probes += [_probe(plan, 'after', say)] if trains else []
    return {
        'started': started,
        'seconds': time.time() - started,
        'model': str(plan.model),
        'threads': plan.threads,
        'load': [load, os.getloadavg()],
        'probes': probes,
        'dialect': asdict(dialect) if dialect else None,
        'cells': cells,
    }


def _cell(
    plan: Plan, cell: Cell, dialect: Dialect | None, started: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """All runs of a cell by side, with the rows they ran on."""
    made = _rows(plan, cell, dialect)
    job = _job(plan, cell, made, dialect)
    runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in _sides(plan, cell)}
    for number, side in order(_sides(plan, cell), plan.repeats):
        if runs[side.name] and not _worth_another(runs[side.name][-1], plan.seconds - (time.time() - started)):
            continue
        say(f'{cell.title}: {side.name}, run {number + 1}')
        run = _run(plan, cell, side, number, job)
        runs[side.name].append(run)
        say(f'    {_told(run)}')
        if side.peer == OURS and not run['ok']:
            break  # there is nothing to compare with
    return {'cell': asdict(cell), 'rows': {**asdict(made), 'path': str(made.path)}, 'sides': runs}


def _worth_another(run: dict[str, Any], left: float) -> bool:
    """Whether a side runs again: it did not fail, and there is time."""
    return run['ok'] and run['seconds'] < left


def order(sides: Sequence[Side], repeats: int) -> Iterator[tuple[int, Side]]:
    """(repeat, side) in the order ABBA AB..."""
    for number in range(repeats):
        yield from ((number, side) for side in (sides if number % 2 == 0 else reversed(sides)))


def _sides(plan: Plan, cell: Cell) -> list[Side]:
    """The sides that a cell has."""
    if cell.kind != 'train':
        return [side for side in SINGLE[cell.kind] if side.peer in plan.pythons]
    return [side for side in plan.sides if cell.stage in side.stages and not (cell.packing and side.reordered)]


SINGLE = {
    'tokenise': (Side('ours', OURS), Side('datasets.map + apply_chat_template', 'trl')),
    'pack': (Side('ours', OURS), Side('trl bfd', 'trl'), Side('trl bfd, one batch', 'trl', {'batch': 0})),
}
SCRIPTS = {
    ('tokenise', OURS): 'tokenise_ours.py',
    ('tokenise', 'trl'): 'tokenise_map.py',
    ('pack', OURS): 'pack_ours.py',
    ('pack', 'trl'): 'pack_trl.py',
}


def _script(cell: Cell, side: Side) -> Path:
    if cell.kind != 'train':
        return DRIVERS / SCRIPTS[cell.kind, side.peer]
    return DRIVERS / 'with_ours.py' if side.peer == OURS else PEERS[side.peer].script


def _run(plan: Plan, cell: Cell, side: Side, number: int, job: dict[str, Any]) -> dict[str, Any]:
    """One run: read if it is there, else made and written."""
    name = f'{cell.name}.{side.name.replace(", ", "-").replace(" ", "-")}.{number}'
    path = plan.folder / 'runs' / f'{name}.json'
    if path.is_file():
        return json.loads(path.read_text(encoding='utf-8'))
    command = [plan.pythons[side.peer], str(_script(cell, side))]
    run = process.run(
        command,
        {**job, 'options': dict(side.options)},
        plan.folder / 'work' / name,
        threads=plan.threads,
        timeout=plan.timeout,
        path=str(PACKAGE.parent) if side.peer == OURS else '',
    )
    if run['ok']:
        files.write(path, json.dumps(run))
    return run


def _job(plan: Plan, cell: Cell, made: rows.Rows, dialect: Dialect | None) -> dict[str, Any]:
    """What a driver is told; ``options`` are added for each side."""
    tokens = made.mean * cell.rows_per_step
    return {
        'model': str(plan.model),
        'model_type': plan.model_type,
        'rows': str(made.path),
        'stage': cell.stage,
        'tuner': cell.tuner,
        'packing': cell.packing,
        'packs_per_step': max(1, round(tokens / cell.max_length)),
        'longest': cell.max_length * 2 if cell.stage == 'dpo' else cell.max_length,
        'rows_per_step': cell.rows_per_step,
        'max_length': cell.max_length,
        'steps': cell.steps,
        'count': made.count if cell.kind != 'pack' else cell.count,
        'tries': cell.tries,
        'dialect': asdict(dialect) if dialect else None,
        'chat_template': dialect.jinja(ends_with_stop=cell.stage == 'dpo') if dialect else None,
        'rank': RANK,
        'alpha': ALPHA,
        'weight_decay': WEIGHT_DECAY,
        'adam_beta2': BETA2,
        'learning_rate': plan.learning_rate,
        'seed': plan.seed,
        'device': plan.device,
    }


def _rows(plan: Plan, cell: Cell, dialect: Dialect | None) -> rows.Rows:
    """The file of a cell's rows."""
    encode = plan.tokenizer.encode

    def length(row: Any) -> int:
        if isinstance(row, str):
            return len(encode(row)) + 1
        if isinstance(row, dict):  # a pair: both of its sequences
            *prompt, answer = row['messages']
            return length(row['messages']) + length([*prompt, {**answer, 'content': row['rejected_response']}])
        text = dialect.write(row) if dialect else plan.tokenizer.apply_chat_template(row, tokenize=False)
        return len(encode(text, add_special_tokens=False))

    count = 1 if cell.kind == 'pack' else cell.count or round(cell.rows_per_step * cell.steps * rows.SPARE)
    return rows.write(plan.folder / f'{cell.name}.jsonl', cell.rows, plan.conversations, length, cell.max_length, count)


def _probe(plan: Plan, when: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What the machine can do, measured like a side; None if that failed."""
    path = plan.folder / 'runs' / f'probe.{when}.json'
    if path.is_file():
        return json.loads(path.read_text(encoding='utf-8'))
    say(f'matrix products and copies, {when}')
    job = {'model': str(plan.model), 'device': plan.device, 'rank': RANK}
    command = [plan.pythons[OURS], str(DRIVERS / 'probe.py')]
    work, ours = plan.folder / 'work' / f'probe.{when}', str(PACKAGE.parent)
    run = process.run(command, job, work, threads=plan.threads, timeout=plan.timeout, path=ours)
    if run['ok']:
        files.write(path, json.dumps(run['result']))
    else:
        say(f'    {run["error"]}')
    return run['result']


def _told(run: dict[str, Any]) -> str:
    """A run in one line."""
    from swift.bench import ratio

    if not run['ok']:
        return run['error']
    if run['result']:
        return f'{ratio.median([run], ratio.rate):,.0f} a second'
    return (
        f'{ratio.median([run], ratio.tokens_per_second):,.0f} tokens/s, {run["peak_rss"] / 2**30:.2f} GiB, '
        f'first step after {run["first_step"]:.0f} s, load {run["load"][0]:.1f}'
    )


def folder(base: Path, bench: BenchArgs, what: str = 'sft') -> Path:
    """Where the results of these flags go: the measurement that they began and did not finish, else a new one."""
    facts = {name: value for name, value in asdict(bench).items() if name != 'output_dir'}
    facts |= {} if what == 'sft' else {'what': what}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    number = 1
    while (base / f'{digest}-{number}' / REPORT).exists():
        number += 1
    path = base.absolute() / f'{digest}-{number}'
    (path / 'runs').mkdir(parents=True, exist_ok=True)
    return path
