"""What a checkpoint knows of itself: finds it, and reads the args.json that training wrote beside it.

``swift infer --adapters output/x`` needs no other flag: the folder leads to the newest checkpoint, and its args.json
to the model, template and system prompt. What is found there is data: nothing in it is ever imported.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.core.errors import ConfigError, CorruptError
from swift.core.flags import flags_of
from swift.core.layers import Given
from swift.models.args import split_adapter

# How the weights are to be read is the checkpoint's own knowledge, whatever flags say.
FORCED = ('tuner_type', 'task_type', 'bnb_4bit_quant_type', 'bnb_4bit_use_double_quant')
FILLED = (
    'model', 'model_type', 'model_revision', 'torch_dtype', 'attn_impl', 'experts_impl', 'new_special_tokens',
    'num_labels', 'problem_type', 'reranker_positive_word', 'reranker_negative_word',
    'rope_scaling', 'max_model_len', 'quant_method', 'quant_bits', 'hqq_axis',
    'bnb_4bit_compute_dtype', 'template', 'system', 'truncation_strategy', 'agent_template', 'norm_bbox',
    'use_chat_template', 'response_prefix', 'use_hf',
)  # fmt: skip
RUN = re.compile(r'v(\d+)-\d{8}-\d{6}')
CHECKPOINT = re.compile(r'checkpoint-\d+|best|last')
WEIGHTS = ('adapter_config.json', 'config.json')


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights, perhaps with the args.json of the run that wrote it, there or one folder up."""

    folder: Path

    @property
    def source(self) -> Path:
        """Its args.json, or where it would be."""
        own = self.folder / 'args.json'
        of_run = CHECKPOINT.fullmatch(self.folder.name) and not own.is_file()
        return self.folder.parent / 'args.json' if of_run else own

    def args(self) -> dict[str, Any]:
        """The content of its args.json; empty if there is none. Raises ConfigError when it cannot be read."""
        return _read(self.source) if self.source.is_file() else {}

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter and no whole model."""
        return (self.folder / WEIGHTS[0]).is_file() and not self.is_model

    @property
    def is_model(self) -> bool:
        """Whether the folder holds a whole model."""
        return (self.folder / WEIGHTS[1]).is_file()

    @property
    def base_model(self) -> str | None:
        """The base model that an adapter folder itself names."""
        try:
            return json.loads((self.folder / WEIGHTS[0]).read_text(encoding='utf-8'))['base_model_name_or_path']
        except (OSError, ValueError, KeyError):
            return None


def place(config: Any) -> None:
    """Let ``model`` and ``adapters`` name checkpoint folders, whichever of the two flags and folders was given."""
    model = config.model
    for i, text in enumerate(model.adapters):
        name, path = split_adapter(text)
        checkpoint = find(path)
        if checkpoint is None:
            continue
        if checkpoint.folder != Path(path):
            config.notes.append(f'adapters {path}: taking {checkpoint.folder}')
            model.adapters[i] = f'{name}={checkpoint.folder}' if name else str(checkpoint.folder)
        if checkpoint.is_model and len(model.adapters) == 1 and not model.model:
            model.model, model.adapters = str(checkpoint.folder), []
            config.notes.append(f'adapters {path}: a whole model, taken as --model')
            return
    checkpoint = find(model.model) if model.model else None
    if checkpoint is None:
        return
    if checkpoint.is_adapter and not model.adapters:
        config.notes.append(f'model {model.model}: an adapter, taken as --adapters')
        model.adapters, model.model = [str(checkpoint.folder)], None
    elif checkpoint.is_model and checkpoint.folder != Path(model.model):
        config.notes.append(f'model {model.model}: taking {checkpoint.folder}')
        model.model = str(checkpoint.folder)


def settings(config: Any, given: AbstractSet[str], *, resumed: str | None = None) -> list[Given]:
    """What the args.json of the checkpoint says for flags that were not given.

    Args:
        resumed: the checkpoint of a run that goes on; all of its flags are taken then.
    """
    model = config.model
    text = resumed or (split_adapter(model.adapters[0])[1] if model.adapters else model.model)
    checkpoint = find(text) if text else None
    if checkpoint is None:
        return []
    flags, args = flags_of(type(config)), _intact(checkpoint) if resumed else checkpoint.args()
    args['model'] = _base(checkpoint, args.get('model'))
    names = {*FILLED, *FORCED}
    if model.load_data_args:
        names |= {name for name, flag in flags.items() if 'data' in flag.groups}
    if resumed:
        names = flags.keys() - {'resume_from_checkpoint', 'load_args'}
    if args.get('external_plugins') and 'external_plugins' not in given:
        names -= {'external_plugins'}
        plugins = ' '.join(map(str, args['external_plugins']))
        config.notes.append(
            f'{checkpoint.source}: it was trained with --external_plugins {plugins}; never imported by itself'
        )
    if 'verb' not in args and not _knows_template(args.get('template')):
        names -= {'template'}
    taken = {name for name in given if name not in (*FORCED, 'model')}
    if model.model:  # given, and no adapter folder, see place()
        taken |= {'model'}
    return [
        Given(name, (args[name],), f'{checkpoint.source}: {name}', str(checkpoint.source))
        for name in flags
        if name in names - taken and args.get(name) is not None
    ]


def find(text: str) -> Checkpoint | None:
    """The checkpoint at a local path: a checkpoint folder, a run folder, or an output folder with runs in it.

    Returns None when ``text`` is no local folder (a hub id, say).
    """
    folder = Path(text)
    if not folder.is_dir():
        return None
    if not any((folder / name).is_file() for name in WEIGHTS):
        folder = _newest(folder) or folder
    return Checkpoint(folder)


def _intact(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a run that goes on: from its newest checkpoint whose args.json is what was written.

    Which checkpoint it goes on from is found later, when every byte is looked at; all of one run say the same.
    """
    from swift.core import files  # not for a typo: --help and errors are to be quick

    step = lambda folder: int(folder.name.rpartition('-')[2])
    siblings = [path for path in checkpoint.folder.parent.glob('checkpoint-*') if path.name[11:].isdigit()]
    for folder in (checkpoint.folder, *sorted(siblings, key=step, reverse=True)):
        with contextlib.suppress(CorruptError):
            return json.loads(files.read(folder, 'args.json'))
    return checkpoint.args()


def _base(checkpoint: Checkpoint, model: str | None) -> str | None:
    """The model of args.json; that of the adapter's own file if there is none, or if it has moved away."""
    own = checkpoint.base_model
    return own if own and (model is None or (not Path(model).exists() and Path(own).exists())) else model


def _knows_template(name: str | None) -> bool:
    """Whether a template's name means something here: args.json of another tool may say any."""
    from swift.templates import catalog

    return name in catalog.names() or name in catalog.established()


def _newest(folder: Path) -> Path | None:
    """The last checkpoint of a run folder, or of the newest run in an output folder."""
    if (folder / 'last').is_dir():
        return (folder / 'last').resolve()
    steps = [(int(p.name.rpartition('-')[2]), p) for p in folder.glob('checkpoint-*') if p.name[11:].isdigit()]
    if steps:
        return max(steps)[1]
    runs = [(int(found[1]), p) for p in folder.iterdir() if (found := RUN.fullmatch(p.name))]
    for _, run in sorted(runs, reverse=True):
        if (newest := _newest(run)) is not None:
            return newest
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        args = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: cannot be read ({error}); --load_args false goes on without it') from error
    if not isinstance(args, dict):
        raise ConfigError(f'{path}: expected a JSON object; --load_args false goes on without it')
    return args
