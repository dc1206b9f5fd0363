"""``SftArguments(model=..., dataset=[...])`` and its kin: every flag of a verb as a keyword, flat.

Made from the verbs' configurations and the table of established flags, so that they can never lack a flag. They are
inert; ``sft_main(SftArguments(...))`` reads, derives and checks what was given, as the command line does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self

from swift.commands import inherit
from swift.commands.configs import CONFIGS, VOCABULARY
from swift.core.errors import ConfigError
from swift.core.flags import SECRET, flags_of


class FlatArguments:
    """Base of the flat dataclasses. ``method``: the ``--rlhf_type`` that they are for; '' for any."""

    method: ClassVar[str] = ''

    @classmethod
    def from_pretrained(cls, checkpoint_dir: str, **changes: Any) -> Self:
        """The arguments that a checkpoint was trained with, out of its args.json.

        Raises:
            ConfigError: there is no args.json in the folder or beside it.
        """
        found = inherit.find(str(checkpoint_dir))
        saved = found.args() if found else {}
        if found is None or not saved:
            raise ConfigError(f'{checkpoint_dir}: there is no args.json in this folder or above it')
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in saved.items() if name in known and value is not None}
        holder = 'adapters' if found.is_adapter else 'model'
        return cls(**{**values, holder: [str(found.folder)] if found.is_adapter else str(found.folder), **changes})


def flat(
    name: str, verb: str, *, without: Collection[str] = (), more: Mapping[str, Any] = MappingProxyType({})
) -> type[FlatArguments]:
    """The flat dataclass of a verb, without some of its flags, and with more fields."""
    config = CONFIGS[verb]
    defaults = {flag.name: flag.default for flag in flags_of(config).values()}
    for rows in VOCABULARY.rows(config.like or verb).values():
        defaults.update({row.name: row.default for row in rows if row.kind is not None})
    defaults = {flag: value for flag, value in defaults.items() if flag not in without} | dict(more)
    fields = [
        (flag, Any, dataclasses.field(default_factory=partial(copy.deepcopy, value), repr=not SECRET.search(flag)))
        for flag, value in defaults.items()
    ]
    made = dataclasses.make_dataclass(
        name, fields, bases=(FlatArguments,), namespace={'__module__': __name__}, kw_only=True
    )
    made.__doc__ = f'Every flag of swift {verb} as a keyword.'
    return made


SftArguments = flat('SftArguments', 'sft')
PretrainArguments = flat('PretrainArguments', 'pt')
RLHFArguments = flat('RLHFArguments', 'rlhf')
InferArguments = flat('InferArguments', 'infer')
DeployArguments = flat('DeployArguments', 'deploy')
ExportArguments = flat('ExportArguments', 'export')
BaseArguments = flat('BaseArguments', 'infer')

__all__ = [
    'BaseArguments', 'DeployArguments', 'ExportArguments', 'FlatArguments', 'InferArguments', 'PretrainArguments',
    'RLHFArguments', 'SftArguments',
]  # fmt: skip
