"""The report as tables for people: one a cell, every side with its ratio to ours, winners and losers alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from swift.bench import limits, ratio, sheet
from swift.bench.peers import OURS, SIDES
from swift.bench.plot import Panel
from swift.bench.sheet import Row, Section

AGREE, AGREE_REORDERED = 1e-2, 0.25  # relative difference of first losses; of mean losses where packs hold other rows

# Heading, what of a run, and how it is shown. An arrow down: less is better.
FIGURES = (
    ('tokens/s', ratio.tokens_per_second, lambda value: f'{value:,.0f}'),
    ('CPU s per M tokens ↓', ratio.cpu_per_million, lambda value: f'{value:,.0f}'),
    ('peak GiB ↓', ratio.peak, lambda value: f'{value / 2**30:.2f}'),
    ('start to first step s ↓', ratio.start, lambda value: f'{value:.1f}'),
)
OF_PAIRS = (
    ('pairs/s', ratio.rows_per_second, lambda value: f'{value:.3f}'),
    ('CPU s a pair ↓', ratio.cpu_per_row, lambda value: f'{value:.2f}'),
    *FIGURES[2:],
)
STARTS = FIGURES[:1:-1]  # of runs without a step that counts
RATES = (('a second', ratio.rate, lambda value: f'{value:,.0f}'),)


def write(found: dict[str, Any], folder: Path, out: TextIO) -> int:
    """Print the tables and write the files of ``sheet``.

    Returns:
        1 if losses disagree or a run of ours failed, else 0.
    """
    for cell in found['cells'].values():
        cell['limit'] = _limit(found, cell)
        cell['losses'] = list(losses(cell))
    cells = found['cells'].values()
    sections = [
        Section(cell['cell']['title'], list(rows_of(cell)), [*notes(found, cell), *failures(cell)]) for cell in cells
    ]
    sheet.write(found, folder, sections, [panel for cell in cells if (panel := _panel(cell))], out)
    failed = any(not run['ok'] for cell in cells for run in cell['sides'].get(OURS, ()))
    wrong = any(not agrees for cell in cells for *_, agrees in cell['losses'])
    return int(failed or wrong)


def _panel(cell: dict[str, Any]) -> Panel | None:
    """The rates of a cell's sides, the fastest on top; None where nothing counts."""
    trains = cell['cell']['kind'] == 'train'
    if trains and cell['cell']['steps'] <= ratio.WARM:
        return None
    values = ratio.tokens_per_second if trains else ratio.rate
    good = {name: [run for run in runs if run['ok']] for name, runs in cell['sides'].items()}
    bars = sorted((ratio.median(runs, values), name) for name, runs in good.items() if runs)
    if not bars:
        return None
    title = f'{cell["cell"]["title"]} ({"tokens/s" if trains else "a second"})'
    return Panel(title, [(name, value) for value, name in bars], (OURS,), cell['limit'])


def losses(cell: dict[str, Any]) -> Iterator[tuple[str, str, float, float, int, bool]]:
    """(side, first or mean, its loss, ours, supervised tokens more than ours in the first step, whether they agree)."""
    ours = next((run for run in cell['sides'].get(OURS, ()) if run['ok'] and run['steps']), None)
    if ours is None:
        return
    reordered = {side.name for side in SIDES if side.reordered} if not cell['cell']['packing'] else set(cell['sides'])
    for name, runs in cell['sides'].items():
        run = next((run for run in runs if run['ok']), None)
        if run is None or name == OURS or run['steps'][0]['loss'] is None:
            continue
        a, b = (_mean_loss(each) if name in reordered else each['steps'][0]['loss'] for each in (ours, run))
        more = 0 if name in reordered else run['steps'][0]['supervised'] - ours['steps'][0]['supervised']
        which, allowed = ('mean', AGREE_REORDERED) if name in reordered else ('first', AGREE)
        yield name, which, b, a, more, abs(b - a) <= allowed * abs(a)


def _mean_loss(run: dict[str, Any]) -> float:
    """Mean loss of all supervised tokens of a run."""
    total = sum(step['loss'] * step['supervised'] for step in run['steps'])
    return total / sum(step['supervised'] for step in run['steps'])


def _limit(found: dict[str, Any], cell: dict[str, Any]) -> float | None:
    """Tokens a second that the better of the two probes allows; None for other work or without a probe."""
    probes = [probe for probe in cell.get('probes', found['probes']) if probe]
    ours = next((run for run in cell['sides'].get(OURS, ()) if run['ok'] and run['steps']), None)
    if cell['cell'].get('stage') == 'dpo':  # how much of a pair is computed is the sides' own affair
        return None
    if not probes or ours is None or cell['cell']['kind'] != 'train' or cell['cell']['steps'] <= ratio.WARM:
        return None
    tokens, supervised = (sum(step[name] for step in ours['steps']) for name in ('tokens', 'supervised'))
    facts = {'supervised': supervised / tokens, 'reach': cell['rows']['reach'], 'step': tokens / len(ours['steps'])}
    return max(limits.tokens_per_second(probe, cell['cell']['tuner'], **facts) for probe in probes)


def rows_of(cell: dict[str, Any]) -> Iterator[Row]:
    """The table of a cell: a heading, then each side, the fastest first, with its ratio to ours and the interval."""
    ours = [run for run in cell['sides'].get(OURS, ()) if run['ok']]
    figures = _figures(cell)
    yield ('', *(text for heading, *_ in figures for text in (heading, 'ours / it')), 'runs')
    good = {name: [run for run in runs if run['ok']] for name, runs in cell['sides'].items()}
    rank = lambda name: ratio.median(good[name], figures[0][1]) * (1 if '↓' in figures[0][0] else -1)
    fastest = sorted((name for name in good if good[name]), key=rank)
    for name in fastest:
        cells = []
        for _, values, show in figures:
            compared = str(ratio.ratio(ours, good[name], values)) if ours and name != OURS else ''
            cells += [show(ratio.median(good[name], values)), compared]
        yield (name, *cells, str(len(good[name])))


def _figures(cell: dict[str, Any]) -> tuple:
    if cell['cell']['kind'] != 'train':
        return RATES
    if cell['cell'].get('stage') == 'dpo':
        return OF_PAIRS
    return FIGURES if cell['cell']['steps'] > ratio.WARM else STARTS


def failures(cell: dict[str, Any]) -> Iterator[str]:
    """What went wrong, a line a side."""
    for name, runs in cell['sides'].items():
        for run in runs:
            if not run['ok']:
                yield f'{name}: {run["error"]}'


def notes(found: dict[str, Any], cell: dict[str, Any]) -> Iterator[str]:
    """The lines under a table: rows, limit, losses."""
    rows = cell['rows'] if cell['cell']['kind'] == 'train' else None
    if rows:
        yield f'{rows["count"]} rows of {rows["mean"]:.0f} tokens on average, {rows["dropped"]} longer ones left out'
    for name, runs in cell['sides'].items():
        yield from (f'{name}: {_said(run["result"])}' for run in runs[:1] if run['ok'] and run['result'])
    if cell['limit']:
        yield f'limit by the matrix products measured in the same run: {cell["limit"]:,.0f} tokens/s'
    for name, runs in cell['sides'].items():
        known = {f'{package} {version}' for run in runs[:1] for package, version in run['versions'].items()}
        yield f'{name}: {", ".join(sorted(known))}'
    for name, which, theirs, ours, more, agrees in cell['losses']:
        mask = f', {more:+d} supervised tokens in it' if more else ''
        what = '-logps/chosen' if cell['cell'].get('stage') == 'dpo' else 'loss'
        yield f'{which} {what}{"" if agrees else " DISAGREES"}: {name} {theirs:.4f}, ours {ours:.4f}{mask}'


def _said(result: dict[str, Any]) -> str:
    """What a piece of work gave, so that the same is seen to be compared."""
    return f'{result["fill"]:.2%} full' if 'fill' in result else f'{result["check"]:,} supervised tokens'
