"""What each kind of training is made of, beside the model and the rows: a table from its name to its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError

if TYPE_CHECKING:
    from swift.core.types import Objective
    from swift.parallel.one_device import TorchBackend
    from swift.parallel.reference import Reference


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


def reference(cfg: Any, objective: Objective, backend: TorchBackend, settings: Any) -> Reference | None:
    """The model that ``objective`` compares with, or None where it compares with none."""
    from swift.parallel import reference as references
    from swift.train.streams import REFERENCE

    if REFERENCE not in objective.needs:
        return None
    asked = cfg.reference
    if asked.ref_adapters:
        from swift.tuners import lora

        lora.add_frozen(backend.model, asked.ref_adapters[0], references.OTHER)  # type: ignore[arg-type]
        return references.switched(backend, references.OTHER)
    if asked.ref_model is None and cfg.tuner.tuner_type != 'full':
        return references.switched(backend)
    return references.frozen(_reference_builder(cfg), settings)


def _reference_builder(cfg: Any) -> Any:
    """``--ref_model``, or the model that training starts from."""
    from dataclasses import replace

    from swift import models

    asked = cfg.reference
    if asked.ref_model is None:
        return models.load(cfg.model)
    other = replace(
        cfg.model, model=asked.ref_model, model_type=asked.ref_model_type, model_revision=asked.ref_model_revision
    )
    return models.load(other)
