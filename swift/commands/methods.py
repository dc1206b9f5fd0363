"""What each kind of training is made of, beside the model and the rows: a table from its name to its parts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError

if TYPE_CHECKING:
    from swift.core.types import Objective
    from swift.models.args import ModelArgs
    from swift.train.args import TrainArgs


@dataclass(frozen=True, slots=True)
class Method:
    """``objective``: module and function that make it of a group of flags, ``flags``.

    ``rows`` names what a row becomes (``data.tasks.ENCODERS``; None: what the template makes of it), ``how`` are
    settings of that encoder. ``reads``: rows are read at their end by a head, instead of being predicted. ``task`` is
    the head that the model needs.
    """

    objective: str
    rows: str | None = None
    task: str | None = None
    flags: str = 'objective'
    how: Callable[[Any], dict[str, Any]] = lambda cfg: {}
    reads: bool = False


def _documents(cfg: Any) -> dict[str, Any]:
    return {name: getattr(cfg.task, name) for name in ('max_positive_samples', 'max_negative_samples')}


def _classes(cfg: Any) -> dict[str, Any]:
    return {'problem': cfg.model.problem_type, 'labels': cfg.model.num_labels}


SFT = Method('swift.commands.methods:_next_token', flags='train')
METHODS: dict[str, Method] = {
    'dpo': Method('swift.objectives.preference:from_args', rows='preference'),
    'kto': Method('swift.objectives.kto:from_args', rows='verdict'),
    'cpo': Method('swift.objectives.no_reference:contrast', rows='preference'),
    'simpo': Method('swift.objectives.no_reference:contrast', rows='preference'),
    'orpo': Method('swift.objectives.no_reference:orpo', rows='preference'),
    'rm': Method('swift.objectives.reward:from_args', rows='preference', task='seq_cls'),
    'prm': Method('swift.objectives.reward:steps', rows='steps', task='seq_cls'),
    'gkd': Method('swift.objectives.distill:from_args', flags='distill'),
}
"""By ``--rlhf_type``."""
_RANKING = Method('swift.objectives.ranking:from_args', rows='reranker', flags='task', how=_documents, reads=True)
TASKS: dict[str, Method] = {
    'seq_cls': Method('swift.commands.methods:_classify', rows='labelled', flags='model', how=_classes, reads=True),
    'embedding': Method('swift.objectives.embedding:Embed', rows='embedding', flags='task', reads=True),
    'reranker': _RANKING,
    'generative_reranker': _RANKING,
}
"""By ``--task_type`` of ``swift sft``."""


def method(cfg: Any) -> Method:
    """The method that a configuration asks for."""
    if cfg.kin != 'rlhf':
        return TASKS.get(cfg.model.task_type, SFT)
    name = cfg.objective.rlhf_type
    if name not in METHODS:
        raise ConfigError(f'--rlhf_type {name}: not built yet. Built: {", ".join(METHODS)}')
    return METHODS[name]


def objective(cfg: Any) -> Objective:
    """What the configuration's method minimises."""
    chosen = method(cfg)
    module, _, name = chosen.objective.partition(':')
    return getattr(importlib.import_module(module), name)(getattr(cfg, chosen.flags))


def _next_token(train: TrainArgs) -> Objective:
    from swift.objectives.sft import NextToken

    return NextToken(accuracy=train.acc_strategy, dft=train.enable_dft_loss, by_channel=train.enable_channel_loss)


def _classify(model: ModelArgs) -> Objective:
    from swift.objectives.classification import Classify

    return Classify(str(model.problem_type))
