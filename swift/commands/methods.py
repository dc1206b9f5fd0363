"""What each kind of training is made of, beside the model and the rows: a table from its name to its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError

if TYPE_CHECKING:
    from swift.core.types import Objective


@dataclass(frozen=True, slots=True)
class Method:
    """``rows`` names what a row becomes (``data.groups.ENCODERS``; None: what the template makes of it)."""

    objective: Callable[[Any], Objective]
    rows: str | None = None


def _next_token(cfg: Any) -> Objective:
    from swift.objectives.sft import NextToken

    train = cfg.train
    return NextToken(accuracy=train.acc_strategy, dft=train.enable_dft_loss, by_channel=train.enable_channel_loss)


def _preference(cfg: Any) -> Objective:
    from swift.objectives import preference

    return preference.from_args(cfg.objective)


def _kto(cfg: Any) -> Objective:
    from swift.objectives import kto

    return kto.from_args(cfg.objective)


def _simple(cfg: Any) -> Objective:
    from swift.objectives import simple

    return simple.from_args(cfg.objective)


METHODS: dict[str, Method] = {
    'sft': Method(_next_token),
    'pt': Method(_next_token),
    'dpo': Method(_preference, rows='preference'),
    'kto': Method(_kto, rows='verdict'),
    'cpo': Method(_simple, rows='preference'),
    'simpo': Method(_simple, rows='preference'),
    'orpo': Method(_simple, rows='preference'),
}


def method(cfg: Any) -> Method:
    """The method that a configuration asks for."""
    name = cfg.objective.rlhf_type if cfg.verb == 'rlhf' else cfg.verb if cfg.verb in METHODS else 'sft'
    if name not in METHODS:
        raise ConfigError(f'--rlhf_type {name}: not built yet. Built: {", ".join(METHODS)}')
    return METHODS[name]
