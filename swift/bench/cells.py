"""What is measured: a table of cells, each a piece of work that every side does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from swift.bench.args import BenchArgs


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison. ``kind`` train runs whole commands; the others compare single pieces of work.

    ``rows``: natural (as they come), uniform (every row ``max_length`` tokens long), text (for pre-training), pairs a:b
    (a preference pair whose prompt has a and whose answers have b parts of ``max_length`` tokens). ``stage`` is the
    command that is compared, of ``swift bench sft`` or ``swift bench dpo``.
    """

    name: str
    title: str
    kind: Literal['train', 'tokenise', 'pack'] = 'train'
    rows: Literal['natural', 'uniform', 'text', 'pairs 3:1', 'pairs 1:1', 'pairs 1:3'] = 'natural'
    stage: Literal['sft', 'pt', 'dpo'] = 'sft'
    tuner: Literal['lora', 'full'] = 'lora'
    packing: bool = False
    max_length: int = 1024
    rows_per_step: int = 16
    steps: int = 5
    count: int | None = None  # rows; None: as many as the steps need
    tries: int = 3  # how often a run does its piece of work, where it is none of training
    quick: Mapping[str, int] | None = None  # what the quick form changes; None: it leaves the cell out


CELLS = {
    cell.name: cell
    for cell in (
        Cell('lora-natural', 'LoRA, natural lengths', quick={'rows_per_step': 8, 'steps': 4}),
        Cell('lora-uniform', 'LoRA, 4 x 512 tokens', rows='uniform', max_length=512, rows_per_step=4),
        Cell('full', 'Full fine-tuning, 4 x 512 tokens', rows='uniform', tuner='full', max_length=512, rows_per_step=4),
        Cell('packed', 'Packed pre-training', rows='text', stage='pt', tuner='full', packing=True, rows_per_step=8),
        Cell('first-step', 'Start to first step, 500 rows', rows_per_step=8, steps=1, count=500),
        Cell('tokenise', 'Tokenise, template and mask', kind='tokenise', steps=0, count=10_000, quick={'count': 2000}),
        Cell('pack', 'Packing algorithm', kind='pack', steps=0, count=200_000, quick={'count': 50_000}),
        *(
            Cell(
                f'pairs-{a}-{b}', f'DPO with LoRA, prompt to answer {a}:{b}', rows=f'pairs {a}:{b}', stage='dpo',
                max_length=512, rows_per_step=8, quick={'rows_per_step': 4, 'steps': 4},
            )
            for a, b in ((3, 1), (1, 1), (1, 3))
        ),
    )
}  # fmt: skip


def of(what: str) -> dict[str, Cell]:
    """The cells of ``swift bench sft`` or ``swift bench dpo`` by name."""
    return {name: cell for name, cell in CELLS.items() if (cell.stage == 'dpo') == (what == 'dpo')}


def choose(bench: BenchArgs, what: str = 'sft') -> tuple[Cell, ...]:
    """The cells that the flags ask for, with the numbers that they give."""
    chosen = []
    for cell in of(what).values():
        if bench.cells and cell.name not in bench.cells:
            continue
        if bench.quick and cell.quick is None and not bench.cells:
            continue
        if bench.quick and cell.quick:
            cell = replace(cell, **cell.quick)
        flags = {'max_length': bench.max_length, 'rows_per_step': bench.rows_per_step, 'steps': bench.steps}
        given = {name: value for name, value in flags.items() if value}
        chosen.append(replace(cell, **(given if cell.kind == 'train' else {})))
    return tuple(chosen)
