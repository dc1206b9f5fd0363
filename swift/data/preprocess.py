"""The established classes that turn rows: for datasets that users register, and for tokenised datasets in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from swift.core.errors import RowError
from swift.core.types import Encoded, Origin, Template
from swift.data.convert import Reading, convert
from swift.data.dataset import Dataset
from swift.data.rows.standard import to_row


class RowPreprocessor:
    """A row in any format to the standard messages row. Override ``preprocess``; None leaves a row out.

    ``columns`` renames columns first.
    """

    def __init__(self, *, columns: Mapping[str, str] | None = None, **_: Any):
        self.columns = {old.lower(): new for old, new in (columns or {}).items()}

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any] | None:
        return to_row(convert(row, Origin('<row>', 1), Reading(self.columns, answers=False)))

    def __call__(self, dataset: Any, **_: Any) -> Any:
        """Preprocess each row of a Dataset, or of anything with ``map``."""
        return dataset.map(self.preprocess)


class ResponsePreprocessor(RowPreprocessor):
    """query, response, history, system."""


class AlpacaPreprocessor(RowPreprocessor):
    """instruction, input, output."""


class MessagesPreprocessor(RowPreprocessor):
    """messages or conversations."""


class AutoPreprocessor(RowPreprocessor):
    """Whichever format fits."""


class EncodePreprocessor:
    """``EncodePreprocessor(template)(dataset)``: the dataset tokenised, as a list of dicts.

    Each has ``input_ids``, ``labels`` (-100 where nothing is learned), ``loss_scale`` and ``length``.
    """

    def __init__(self, template: Template, **_: Any):
        self.template = template

    def __call__(self, dataset: Dataset | Any, **_: Any) -> list[dict[str, Any]]:
        """Raises RowError for a row that the template cannot encode."""
        rows = dataset if isinstance(dataset, Dataset) else _dataset(dataset)
        out = []
        for i in range(len(rows)):
            try:
                sample = rows.sample(i)
                out += [] if sample is None else [columns(each) for each in self.template.encode(sample)]
            except RowError as error:
                raise RowError(f'{rows.origin(i)}: {str(error).removeprefix(f"{rows.origin(i)}: ")}') from None
        return out


def _dataset(rows: Any) -> Dataset:
    from swift.data.loading import load_dataset

    return load_dataset(rows)[0]


def columns(each: Encoded) -> dict[str, Any]:
    """An encoded row as lists: ``input_ids``, ``labels`` (-100: nothing is learned), ``loss_scale``, ``length``."""
    labels = np.where(each.weight > 0, each.input_ids, -100)
    return {
        'input_ids': each.input_ids.tolist(),
        'labels': labels.tolist(),
        'loss_scale': each.weight.tolist(),
        'length': len(each),
    }
