"""Floor 2: rows of any file and format become Samples, token sequences, and batches of an optimizer step."""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    'DATASETS': 'catalog',
    'DatasetMeta': 'catalog',
    'SubsetDataset': 'catalog',
    'register_dataset': 'catalog',
    'register_dataset_info': 'catalog',
    'Dataset': 'dataset',
    'save': 'dataset',
    'Stream': 'stream',
    'load': 'loading',
    'load_dataset': 'loading',
    'batches': 'source',
    'eval_batches': 'source',
    'EncodePreprocessor': 'preprocess',
    'RowPreprocessor': 'preprocess',
    'ResponsePreprocessor': 'preprocess',
    'AlpacaPreprocessor': 'preprocess',
    'MessagesPreprocessor': 'preprocess',
    'AutoPreprocessor': 'preprocess',
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    """Look a public name up in its module, so that reading flags imports none of them."""
    if name not in _NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_NAMES[name]}'), name)
