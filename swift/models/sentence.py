"""The files by which sentence-transformers knows an embedding model: modules.json, 1_Pooling, 2_Normalize.

``readout`` reads them from a folder, ``write`` puts them beside trained weights, so that
``SentenceTransformer(folder)`` gives the vectors that were trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.core.errors import ModelError
from swift.core.types import Readout

MODULES, OPTIONS = 'modules.json', 'config_sentence_transformers.json'
LENGTH = 'sentence_bert_config.json'
KNOWN = ('Transformer', 'Pooling', 'Normalize')
LEGACY = {  # how configs before 5.0 say it, in the order in which several are joined
    'pooling_mode_cls_token': 'cls',
    'pooling_mode_max_tokens': 'max',
    'pooling_mode_mean_tokens': 'mean',
    'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
    'pooling_mode_weightedmean_tokens': 'weightedmean',
    'pooling_mode_lasttoken': 'lasttoken',
}


def readout(folder: Path) -> Readout:
    """What the modules of a folder make of hidden states; the normalised last token where there are none.

    Raises:
        ModelError: a module that is not known here.
    """
    if not (folder / MODULES).is_file():
        return Readout('pooled')
    kinds = {each['type'].rpartition('.')[2]: each['path'] for each in _read(folder / MODULES)}
    if unknown := [kind for kind in kinds if kind not in KNOWN]:
        raise ModelError(
            f'{folder / MODULES}: {", ".join(unknown)} is not built yet; known are {", ".join(KNOWN)}. Without the '
            'file, the last token is taken'
        )
    pooling = _modes(_read(folder / kinds['Pooling'] / 'config.json')) if 'Pooling' in kinds else ('lasttoken',)
    return Readout('pooled', pooling=pooling, normalize='Normalize' in kinds)


def max_length(folder: Path) -> int | None:
    """The longest text that the folder's own settings let through."""
    path = folder / LENGTH
    return _read(path).get('max_seq_length') if path.is_file() else None


def write(folder: Path, made: Readout, *, width: int, length: int, source: Path) -> None:
    """Put the modules beside the weights of a trained embedding model.

    Args:
        width: of the hidden states.
        length: longest sequence, in tokens.
        source: folder of the model that training started from: its prompts and similarity are kept.
    """
    types = [('', 'models.Transformer'), ('1_Pooling', 'models.Pooling')]
    if made.normalize:
        types.append(('2_Normalize', 'models.Normalize'))
    modules = [
        {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.{kind}'}
        for i, (path, kind) in enumerate(types)
    ]
    pooling = {'word_embedding_dimension': width} | {old: mode in made.pooling for old, mode in LEGACY.items()}
    options = _read(source / OPTIONS) if (source / OPTIONS).is_file() else {}
    options.pop('__version__', None)
    lower = _read(source / LENGTH) if (source / LENGTH).is_file() else {'do_lower_case': False}
    for path, _ in types[1:]:
        (folder / path).mkdir(exist_ok=True)
    _write(folder / MODULES, modules)
    _write(folder / '1_Pooling' / 'config.json', {**pooling, 'include_prompt': True})
    _write(folder / OPTIONS, {'prompts': {}, 'default_prompt_name': None, 'similarity_fn_name': 'cosine', **options})
    _write(folder / LENGTH, {**lower, 'max_seq_length': length})


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    if (mode := config.get('pooling_mode')) is not None:
        return (mode,) if isinstance(mode, str) else tuple(mode)
    return tuple(mode for old, mode in LEGACY.items() if config.get(old)) or ('mean',)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ModelError(f'{path}: cannot be read ({error})') from error


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + '\n', encoding='utf-8')
