"""swift inspect: every token of a row, as training would see it, with its role, loss weight and place in a pack.

The rows are those of ``swift sft`` with the same flags, or of ``swift rlhf`` where ``--rlhf_type`` is one, after
rendering, truncation and packing: what the sequences of a row share is shown once, then what each goes on with. The
faults that the lint finds come last. No weights are read: a folder with a tokenizer is enough.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swift.commands.configs import InspectConfig, resolve
from swift.commands.prepare import Prepared, prepare
from swift.core import files
from swift.core.log import get_logger
from swift.core.types import Encoded
from swift.data import groups
from swift.data.encoding import Encoding
from swift.data.lint import Examiner
from swift.templates import xray

logger = get_logger(__name__)

SHOWN = 5


class Row(NamedTuple):
    """What became of a row: sequences end to end, or the reason why there are none; ``parts`` of a group."""

    origin: str
    sequences: Sequence[Encoded]
    error: str = ''
    parts: xray.Parts = xray.Parts()


def inspect_main(args: Any = None) -> int:
    """Inspect as ``swift inspect`` does; ``args`` as for ``sft_main``."""
    return main(resolve('inspect', args))


def main(cfg: InspectConfig) -> int:
    """Print the rows that the flags ask for. Returns 0."""
    cfg.data.lint, cfg.data.streaming = 'warn', False
    ready = prepare(cfg, weights_needed=False)
    encoding = Encoding(ready.encode, Examiner(**ready.lint_facts()))
    everything = _rows(ready, encoding)
    wanted = cfg.inspect.rows
    if wanted is None and not cfg.inspect.json and not cfg.inspect.html:
        wanted = SHOWN
    _write(cfg, islice(_packs(cfg, ready, everything) if cfg.data.packing else everything, wanted), ready)
    for _ in everything:  # the lint looks at every row
        pass
    _faults(ready, encoding)
    return 0


def _rows(ready: Prepared, encoding: Encoding) -> Iterator[Row]:
    """Each row of the data in the order of its files; one that truncation splits comes in pieces."""
    rows = ready.train
    for number in np.unique(rows.order).tolist():
        origin, rejected = rows.corpus.origin(number), len(encoding.account.rejected)
        pieces = encoding.row(origin, partial(rows.sample_at, number))
        if len(encoding.account.rejected) > rejected:
            yield Row(str(origin), (), encoding.account.rejected[-1].reason)
        elif not pieces:
            yield Row(str(origin), (), f'left out: longer than --max_length {ready.max_length}, or by its dataset')
        for piece in pieces:
            yield Row(str(origin), groups.apart(piece), parts=_parts(piece, ready.rows))


NAMES = {
    'preference': lambda n: ('chosen', 'rejected')[n],
    'verdict': lambda n: 'answer',
    'steps': lambda n: f'step {n + 1}',
    'embedding': lambda n: ('anchor', 'positive')[n] if n < 2 else f'negative {n - 1}',
    'reranker': lambda n: f'document {n + 1}',
}
"""What the sequences of a row are, by ``Prepared.rows``."""


def _parts(piece: Encoded, kind: str | None) -> xray.Parts:
    """Names of the segments of a group, with what its label says of them, and where each begins."""
    if piece.segments is None or kind not in NAMES:
        return xray.Parts()
    parents, leaves = piece.segments.parents, piece.segments.leaves
    labels = piece.label if len(piece.label) in (1, len(leaves)) else ()
    names = []
    for i, parent in enumerate(parents):
        name = NAMES[kind](leaves.index(i)) if i in leaves else 'prompt' if parent < 0 else 'shared beginning'
        several = len(labels) == len(leaves)
        if i in leaves and labels and (several or leaves.index(i) == 0):
            name += f' (label {labels[leaves.index(i)]:g})'
        elif i not in leaves and parents.count(i) > 1:
            name += f', shared by {parents.count(i)}'
        names.append(name)
    return xray.Parts(tuple(names), piece.segments.offsets)


def _packs(cfg: InspectConfig, ready: Prepared, rows: Iterator[Row]) -> Iterator[Row]:
    """The packs of the first epoch, as training makes them, then the rows that are in none."""
    from swift import data

    source = data.batches(
        ready.train, ready.encode, cfg.data, fingerprint=ready.fingerprint, batch_size=1,
        **ready.lint_facts(),
    )  # fmt: skip
    known: dict[str, list[Encoded]] = {}
    rejected = []
    for row in rows:
        known.setdefault(row.origin, []).extend(row.sequences)
        rejected += [row] if row.error else []
    for (batch,) in source:
        ids = batch.input_ids.split(batch.segments.lengths)
        starts = batch.segments.starts
        owners = [
            origin
            for origin, (a, b) in zip(batch.origins, batch.ranges(), strict=True)
            for at in starts[:-1]
            if a <= at < b
        ]
        sequences = [
            next(twin for twin in known[str(origin)] if np.array_equal(twin.input_ids, part))  # the store has no roles
            for origin, part in zip(owners, ids, strict=True)
        ]
        yield Row(', '.join(str(origin) for origin in batch.origins), sequences)
    yield from rejected


# ---------------------------------------------------------------------------------------------------------- output
def _write(cfg: InspectConfig, rows: Iterator[Row], ready: Prepared) -> None:
    """The rows as JSON lines, as a page, or in the terminal."""
    tokenizer = ready.builder.tokenizer
    if cfg.inspect.json:
        for row in rows:
            print(json.dumps(_object(row, tokenizer), ensure_ascii=False))
    elif cfg.inspect.html:
        _write_page(cfg, rows, tokenizer)
    else:
        for row in rows:
            _print(row, tokenizer)
        print(xray.legend())


def _object(row: Row, tokenizer: Any) -> dict[str, Any]:
    return {'row': row.origin, 'error': row.error} if row.error else xray.as_json(row.sequences, tokenizer, row.parts)


def _print(row: Row, tokenizer: Any) -> None:
    if row.error:
        print(f'── {row.origin}: rejected: {row.error}\n')
        return
    total = sum(len(each) for each in row.sequences)
    loss = sum(int((each.weight != 0).sum()) for each in row.sequences)
    print(f'── {row.origin}: {total:,} tokens, {loss:,} with loss')
    xray.show(row.sequences, tokenizer, row.parts)
    print()


def _write_page(cfg: InspectConfig, rows: Iterator[Row], tokenizer: Any) -> None:
    shown = ((row.origin, row.error or row.sequences, row.parts) for row in rows)
    page = xray.page(shown, tokenizer, title=f'{" ".join(cfg.data.dataset)} · {cfg.model.model}')
    if isinstance(cfg.inspect.html, str):
        files.write(Path(cfg.inspect.html), ''.join(page))
        logger.info('written: %s', cfg.inspect.html)
    else:
        sys.stdout.writelines(page)


def _faults(ready: Prepared, encoding: Encoding) -> None:
    """Notes and faults on standard error: what is on standard output can be read by programs."""
    found = encoding.examiner.finish()
    account = encoding.account
    for text in (*ready.template.notes, f'{account}{account.listing()}', found.stats):
        logger.info('%s', text)
    for finding in found.findings:
        logger.warning('lint: %s', finding)
