"""``args`` of the trainers by the names of TRL and ms-swift: DPOConfig and kin.

Each is a dataclass of the flags of ``swift rlhf`` that mean something to its method, with our defaults, and takes the
fields of TRL's configuration that are flags of another name here, or decide nothing that is computed.
"""

from __future__ import annotations

import dataclasses

from swift.commands.arguments import FlatArguments, flat
from swift.commands.trainers import (
    METHODS,
    AlignmentTrainer,
    CPOTrainer,
    DPOTrainer,
    GKDTrainer,
    KTOTrainer,
    ORPOTrainer,
    RewardTrainer,
)
from swift.commands.training_arguments import OTHERS, WITHOUT_EFFECT

THEIRS = dict.fromkeys(OTHERS.keys() | WITHOUT_EFFECT)
"""Fields of TRL's configurations that are no flags of ours under their names; None: not given."""


def _configuration(trainer: type[AlignmentTrainer]) -> type[FlatArguments]:
    """The configuration of a trainer: without the strengths of other methods."""
    name = trainer.__name__.replace('Trainer', 'Config')
    flags = {each.name for each in dataclasses.fields(flat(name, 'rlhf'))}
    others = {flag for kind in METHODS for flag in kind.takes} - set(trainer.takes)
    theirs = {field: None for field in THEIRS if field not in flags}
    made = flat(name, 'rlhf', without=others | {'rlhf_type'}, more=theirs)
    made.method = trainer.method
    made.__module__ = __name__
    made.__doc__ = (
        f'What a {trainer.__name__} is told, as keywords: the flags of swift rlhf --rlhf_type {trainer.method}.'
    )
    return made


DPOConfig = _configuration(DPOTrainer)
KTOConfig = _configuration(KTOTrainer)
CPOConfig = _configuration(CPOTrainer)
ORPOConfig = _configuration(ORPOTrainer)
RewardConfig = _configuration(RewardTrainer)
GKDConfig = _configuration(GKDTrainer)
