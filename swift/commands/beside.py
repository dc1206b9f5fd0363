"""The memory of a second model: the reference or the teacher that stands beside the model that is trained.

Neither learns, so it is its weights alone; what it computes with comes and goes before the model's own pass, which
needs more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from swift import hub
from swift.commands.configs import RlhfConfig, SftConfig
from swift.models import catalog
from swift.models.args import ModelArgs
from swift.models.info import folder_of, read_config, text_part
from swift.plan import estimate
from swift.plan.predict import WEIGHTS, Plan

DESCRIPTION = ('*.json', '*.jinja', '*.txt', '*.model', '*.py')
"""Files of a model that are not its weights."""
COMPARING = ('dpo', 'kto')
"""Methods with a reference."""


@dataclass(frozen=True, slots=True)
class Second:
    """Its part in the run, and the bytes of its weights."""

    name: str
    size: int

    def added(self, plan: Plan) -> Plan:
        """The plan of a run that holds it, too, from loading on."""
        owners: dict[str, int] = {}
        for name, size in plan.owners.items():
            owners[name] = size
            if name == WEIGHTS:
                owners[self.name] = self.size
        return replace(plan, phases={name: size + self.size for name, size in plan.phases.items()}, owners=owners)


def second(cfg: SftConfig, folder: Path) -> Second | None:
    """The second model of a run whose model is in ``folder``; None where there is none during its steps."""
    if not isinstance(cfg, RlhfConfig):
        return None
    if cfg.objective.rlhf_type == 'gkd':
        return _of('teacher', cfg, folder, cfg.distill.teacher_model, held=not cfg.distill.teacher_model_server)
    compares = cfg.objective.rlhf_type in COMPARING and not cfg.objective.reference_free
    held = compares and not cfg.reference.precompute_ref_log_probs and not cfg.reference.ref_adapters
    return _of('reference', cfg, folder, cfg.reference.ref_model, held=held)


def described(model: ModelArgs) -> Path:
    """The folder of a model; of a hub's, everything but the weights is fetched."""
    if not Path(str(model.model)).exists():
        name = catalog.id_on(str(model.model), use_hf=model.use_hf)
        fetched = hub.fetch(
            name, revision=model.model_revision, use_hf=model.use_hf, token=model.hub_token,
            allow=DESCRIPTION,
        )  # fmt: skip
        model.model = str(fetched)
    return folder_of(model)


def _of(name: str, cfg: SftConfig, folder: Path, other: str | None, *, held: bool) -> Second | None:
    """``other``, or None for the model that is trained, which adapters switched off stand for."""
    itself = other in (None, cfg.model.model) or (other is not None and Path(other).absolute() == folder.absolute())
    if not held or (itself and cfg.tuner.tuner_type != 'full'):
        return None
    place = folder if itself else described(replace(cfg.model, model=other, model_revision=None))
    config = read_config(place)
    dtype = cfg.model.torch_dtype or config.get('dtype') or config.get('torch_dtype') or 'bfloat16'
    return Second(name, estimate.weights(text_part(config), estimate.Run(dtype, bits=cfg.model.quant_bits)))
