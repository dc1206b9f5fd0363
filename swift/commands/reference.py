"""The model that a run compares its policy with: which one, and whether its log-probs are computed beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.commands.prepare import Prepared
from swift.core import cache
from swift.core.errors import ConfigError
from swift.core.types import Objective

if TYPE_CHECKING:
    from swift.commands.configs import RlhfConfig
    from swift.core.types import Builder
    from swift.parallel.one_device import TorchBackend
    from swift.parallel.reference import Reference


def load(
    cfg: Any, ready: Prepared, objective: Objective, backend: TorchBackend, rows: list[Any], beat: Callable[[str], None]
) -> Reference | None:
    """The reference that ``objective`` compares with, or None where it compares with none.

    Args:
        rows: the sources of the run whose rows it will be asked about.
        beat: called as it works through them.
    """
    from swift.objectives.streams import REFERENCE

    if REFERENCE not in objective.needs:
        return None
    if not cfg.reference.precompute_ref_log_probs:
        return _of(cfg, ready, backend)
    from swift.train import precomputed

    folder = cache.folder('reference') / _key(cfg, ready, rows)
    if not folder.exists():
        batches = (batch for each in rows for batch in _everything(each))
        precomputed.compute(folder, batches, _of(cfg, ready, backend), beat=beat)
    return precomputed.Precomputed(folder, partial(_of, cfg, ready, backend))


def facts(cfg: RlhfConfig, ready: Prepared) -> dict[str, Any]:
    """What decides the reference's numbers, for a resumed run to be compared with."""
    from swift.train import fingerprint

    asked = cfg.reference
    if ready.memory and ready.memory.reference:
        weights = fingerprint.of_model(ready.memory.reference.build())
    else:
        weights = fingerprint.of_folder(_builder(cfg).info.path) if asked.ref_model else ready.weights
    return {
        'weights': weights,
        'adapters': [fingerprint.of_folder(Path(each)) for each in asked.ref_adapters],
        'precomputed': asked.precompute_ref_log_probs,
    }


def _of(cfg: RlhfConfig, ready: Prepared, backend: TorchBackend) -> Reference:
    from swift.parallel import reference as references

    asked = cfg.reference
    if ready.memory and ready.memory.reference:
        return references.frozen(ready.memory.reference, backend.settings)
    if asked.ref_adapters:
        from swift.tuners import lora

        lora.add_frozen(backend.model, asked.ref_adapters[0], references.OTHER)  # type: ignore[arg-type]
        return references.switched(backend, references.OTHER)
    if asked.ref_model is None and cfg.tuner.tuner_type != 'full':
        return references.switched(backend)
    return references.frozen(_builder(cfg), backend.settings)


def _builder(cfg: RlhfConfig) -> Builder:
    """``--ref_model``, or the model that training starts from."""
    from swift import models

    asked = cfg.reference
    if asked.ref_model is None:
        return models.load(cfg.model)
    return models.load(
        replace(
            cfg.model, model=asked.ref_model, model_type=asked.ref_model_type, model_revision=asked.ref_model_revision
        )
    )


def _everything(rows: Any) -> Any:
    """All rows of a source in batches."""
    from swift.data.source import Evaluation

    if isinstance(rows, Evaluation):
        return rows
    whole = rows.everything()
    if whole is None:
        raise ConfigError(
            '--precompute_ref_log_probs needs rows that are all known before the first step: '
            'leave out --streaming, or give --num_train_epochs instead of --max_steps'
        )
    return whole


def _key(cfg: RlhfConfig, ready: Prepared, rows: list[Any]) -> str:
    from swift.data.corpus import digest

    identities = [each.identity for each in rows]
    return digest(repr(facts(cfg, ready)), ready.fingerprint, ready.builder.info.dtype, *identities)
