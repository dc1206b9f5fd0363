"""``swift bench infer``: answers beside other engines, on the same prompts, each run in a process of its own.

A driver loads the model, says so, answers ``streams`` prompts that come at once, and writes when every token came.
Greedy, so that answers can be compared; their ends are ignored, so that everybody makes the same number of tokens.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.bench import process
from swift.bench.peers import DRIVERS
from swift.core import files
from swift.core.errors import ConfigError

STREAMS = (1, 8, 32, 64)
QUICK_STREAMS = (1, 32)
PROMPT_TOKENS = 64
WARM_TOKENS = 4  # of an answer that is thrown away before time is taken


@dataclass(frozen=True, slots=True)
class Side:
    """An engine and how it is run. ``peer`` names the Python that has it; '' is ours."""

    name: str
    driver: str
    peer: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)


SIDES = (
    Side('ours', 'infer_ours.py', options={'guessing': True}),
    Side('ours, no guesses', 'infer_ours.py', options={'guessing': False}),
    Side('transformers generate', 'infer_transformers.py', options={'way': 'generate'}),
    Side('transformers generate_batch', 'infer_transformers.py', options={'way': 'generate_batch'}),
    Side('vllm', 'infer_vllm.py', 'vllm'),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: ``prompts`` are token ids, one for each of the most streams."""

    model: Path
    prompts: Sequence[Sequence[int]]
    streams: Sequence[int]
    pythons: Mapping[str, str]  # by peer
    folder: Path
    new_tokens: int = 64
    repeats: int = 1
    threads: int = 2
    timeout: float = 900.0


def prompts(tokenizer: Any, texts: Sequence[str], count: int) -> list[list[int]]:
    """As many prompts of equal length, cut out of texts one after the other."""
    ids = [id for text in texts for id in tokenizer(text, add_special_tokens=False)['input_ids']]
    if len(ids) < PROMPT_TOKENS + count:
        raise ConfigError(f'{len(ids)} tokens of text are too few for {count} prompts of {PROMPT_TOKENS}')
    step = (len(ids) - PROMPT_TOKENS) // count
    return [ids[i * step : i * step + PROMPT_TOKENS] for i in range(count)]


def measure(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Every side at every number of streams, the sides in turn. Runs that are done already are kept."""
    found: dict[str, Any] = {'threads': plan.threads, 'new_tokens': plan.new_tokens, 'runs': []}
    for repeat in range(plan.repeats):
        for streams in plan.streams:
            sides = [side for side in SIDES if not side.peer or side.peer in plan.pythons]
            for side in sides if repeat % 2 == 0 else reversed(sides):
                run = _run(plan, side, streams, repeat)
                say(f'{streams} streams, {side.name}: {_in_short(run)}')
                found['runs'].append(run)
    return found


def _run(plan: Plan, side: Side, streams: int, repeat: int) -> dict[str, Any]:
    folder = plan.folder / 'work' / f'{side.name.replace(" ", "-").replace(",", "")}.{streams}.{repeat}'
    kept = folder.with_suffix('.json')
    if kept.exists() and (run := json.loads(kept.read_text(encoding='utf-8')))['ok']:
        return run
    job = {
        'model': str(plan.model), 'prompts': plan.prompts[:streams], 'new_tokens': plan.new_tokens,
        'warm_tokens': WARM_TOKENS, 'options': dict(side.options),
    }  # fmt: skip
    ours = str(Path(__file__).parents[2]) if not side.peer else ''
    python = plan.pythons[side.peer]
    command = [python, str(DRIVERS / side.driver)]
    run = process.run(command, job, folder, threads=plan.threads, timeout=plan.timeout, path=ours)
    run |= {'side': side.name, 'streams': streams, 'repeat': repeat}
    files.write(kept, json.dumps(run))
    return run


# -------------------------------------------------------------------------------------------------------------- report
def figures(run: dict[str, Any]) -> dict[str, float]:
    """What a run says: output tokens a second, times in milliseconds, seconds until it was ready, GiB."""
    result = run['result']
    gaps = sorted(gap for times in result['times'] for gap in _gaps(times))
    firsts = [times[0] for times in result['times'] if times]
    out = {
        'tokens/s': sum(map(len, result['answers'])) / result['seconds'],
        'CPU s per 1000 tokens': 1000 * result['cpu'] / sum(map(len, result['answers'])),
        'ready after s': result['ready'],
        'peak GiB': run['peak_rss'] / 2**30,
    }
    if firsts:
        out['first token ms'] = 1000 * statistics.median(firsts)
    if gaps:
        out |= {'gap p50 ms': 1000 * gaps[len(gaps) // 2], 'gap p99 ms': 1000 * gaps[len(gaps) * 99 // 100]}
    return out


def _gaps(times: Sequence[float]) -> Iterator[float]:
    return (later - earlier for earlier, later in itertools.pairwise(times))


def _in_short(run: dict[str, Any]) -> str:
    return f'{figures(run)["tokens/s"]:.0f} tokens/s' if run['ok'] else run['error']


COLUMNS = (
    'tokens/s', 'CPU s per 1000 tokens', 'first token ms', 'gap p50 ms', 'gap p99 ms', 'ready after s', 'peak GiB',
)  # fmt: skip


def rows_of(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table: every side at every number of streams, beside ours, medians over repeats."""
    yield ('streams', 'side', *COLUMNS, 'ours is', 'same answers')
    for streams in sorted({run['streams'] for run in found['runs']}):
        ours = _median(found, 'ours', streams)
        for side in SIDES:
            runs = [r for r in found['runs'] if (r['side'], r['streams']) == (side.name, streams)]
            if not runs:
                continue
            values = _median(found, side.name, streams)
            if values is None:
                yield (str(streams), side.name, *('failed' for _ in COLUMNS), '', '')
                continue
            times = f'{ours["tokens/s"] / values["tokens/s"]:.2f} x' if ours else ''
            cells = (_shown(values[name]) if name in values else '' for name in COLUMNS)
            yield (str(streams), side.name, *cells, times, _agreement(found, side.name, streams))


def _median(found: dict[str, Any], side: str, streams: int) -> dict[str, float] | None:
    runs = [figures(r) for r in found['runs'] if (r['side'], r['streams']) == (side, streams) and r['ok']]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else None


def _shown(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _agreement(found: dict[str, Any], side: str, streams: int) -> str:
    """Share of tokens before the first that differs from the answers of transformers' generate."""
    first = {r['side']: r['result']['answers'] for r in reversed(found['runs']) if r['streams'] == streams and r['ok']}
    wanted, given = first.get('transformers generate'), first.get(side)
    if wanted is None or given is None:
        return ''
    pairs = [zip(a, b, strict=False) for a, b in zip(wanted, given, strict=True)]
    same = sum(len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], each))) for each in pairs)
    return f'{same / sum(map(len, wanted)):.0%}'
