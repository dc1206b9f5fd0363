"""Steps without a finite loss or gradient are skipped, written down, and soon enough end the run."""

import json
import math

import pytest
import torch

from swift.core import files
from swift.core.errors import NumericalError
from swift.core.types import Batch, Origin, Segments
from swift.train import finite


def batch(*rows):
    ids = torch.zeros(len(rows), dtype=torch.long)
    origins = tuple(Origin('data.jsonl', row) for row in rows)
    return Batch(ids, ids, Segments((1,) * len(rows)), ids.float(), origins=origins)


def test_a_skipped_step_names_its_rows(tmp_path, caplog):
    journal = tmp_path / 'skipped.jsonl'
    micro = [batch(3, 4), batch(9, 11)]
    finite.skip(journal, 7, micro, loss=math.nan, grad_norm=math.inf, in_a_row=1)
    (line,) = files.lines(journal)
    assert json.loads(line) == {
        'step': 7,
        'loss': 'nan',
        'grad_norm': 'inf',
        'in_a_row': 1,
        'rows': ['data.jsonl:3', 'data.jsonl:4', 'data.jsonl:9', 'data.jsonl:11'],
    }
    assert 'data.jsonl:3, data.jsonl:4, data.jsonl:9 and 1 more' in caplog.text


def test_the_tenth_in_a_row_ends_the_run(tmp_path):
    journal = tmp_path / 'skipped.jsonl'
    for count in range(1, 10):
        finite.skip(journal, count, [batch(count)], loss=math.nan, grad_norm=math.nan, in_a_row=count)
    with pytest.raises(NumericalError, match=r'skipped\.jsonl') as stopped:
        finite.skip(journal, 10, [batch(10)], loss=math.nan, grad_norm=math.nan, in_a_row=10)
    assert stopped.value.exit_code == 76 and len(files.lines(journal)) == 10
