"""Full fine-tuning, and full fine-tuning with a part frozen by prefix, regular expression or share."""

from __future__ import annotations

import re

from torch import nn

from swift.core.errors import ConfigError
from swift.core.types import Builder
from swift.tuners.args import TunerArgs


def full(builder: Builder, args: TunerArgs) -> Builder:
    """Every weight learns, but those that the ``freeze_parameters*`` flags name."""
    return builder.then(lambda model: freeze_(model, args))


def freeze_(model: nn.Module, args: TunerArgs) -> nn.Module:
    """Set ``requires_grad`` of every parameter: frozen by share, prefix or pattern, then trainable by exception.

    Raises:
        ConfigError: when a name matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = _share(model, args.freeze_parameters_ratio)
    frozen |= _matching(names, args.freeze_parameters, args.freeze_parameters_regex, '--freeze_parameters')
    frozen -= _matching(names, args.trainable_parameters, args.trainable_parameters_regex, '--trainable_parameters')
    if len(frozen) == len(names):
        raise ConfigError('every parameter is frozen: lower --freeze_parameters_ratio or name --trainable_parameters')
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen and parameter.is_floating_point())
    return model


def _share(model: nn.Module, ratio: float) -> set[str]:
    """Parameters from the input side that together hold at most ``ratio`` of all numbers."""
    if not 0 <= ratio <= 1:
        raise ConfigError(f'--freeze_parameters_ratio {ratio}: must lie between 0 and 1')
    budget = ratio * sum(parameter.numel() for parameter in model.parameters())
    frozen, used = set(), 0
    for name, parameter in model.named_parameters():
        used += parameter.numel()
        if used > budget:
            break
        frozen.add(name)
    return frozen


def _matching(names: list[str], prefixes: list[str], pattern: str | None, flag: str) -> set[str]:
    found: set[str] = set()
    for prefix in prefixes:
        hits = {name for name in names if name.startswith(prefix)}
        if not hits:
            raise ConfigError(f'{flag} {prefix}: no parameter starts with it. Names look like {", ".join(names[:3])}')
        found |= hits
    if pattern:
        try:
            hits = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(f'{flag}_regex {pattern!r}: not a regular expression ({error})') from error
        if not hits:
            raise ConfigError(f'{flag}_regex {pattern!r}: matches no parameter. Names look like {", ".join(names[:3])}')
        found |= hits
    return found
