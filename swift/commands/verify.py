"""swift verify: losses against their papers and TRL, kernels against plain twins; with a model, its rows in all ways.

Without ``--model`` nothing is read: random rows and models of a few hundred weights are enough to find a wrong sign.
With it, the flags are those of the run that is to be trusted.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from swift.commands import configs
from swift.commands.configs import VerifyConfig
from swift.core.errors import ConfigError, did_you_mean
from swift.core.log import say
from swift.verify import finding
from swift.verify.finding import Finding


def verify_main(args: Any = None) -> int:
    """Verify as ``swift verify`` does; ``args`` as for ``sft_main``."""
    return main(configs.resolve('verify', args))


def main(cfg: VerifyConfig) -> int:
    """Print what was compared. Returns 0, or 1 when something differs by more than it may."""
    if cfg.model.model or cfg.model.adapters:
        from swift.commands import verify_model

        parts, about = [verify_model.check(cfg)], {}
    else:
        about = _chosen(cfg.verify.methods)
        parts = [_methods(list(about)), *([] if cfg.verify.methods else [_kernels()])]
    found = [each for part in parts for each in _watched(part)]
    if cfg.verify.json:
        print(json.dumps([each.as_json() for each in found], ensure_ascii=False, indent=1))
    else:
        for line in finding.tables(found, about, cells=max(100, shutil.get_terminal_size((120, 24)).columns)):
            say(line)
    return int(any(each.failed for each in found))


def _chosen(words: list[str]) -> dict[str, str]:
    """The methods of these names, with those that belong to them (dpo, dpo.hinge ...), and their formulas."""
    from swift.objectives.catalog import METHODS
    from swift.verify import formulas

    for word in words:
        if word not in METHODS:
            raise ConfigError(
                f'--methods {word}: no such method{did_you_mean(word, METHODS)} Known: {", ".join(METHODS)}'
            )
    names = [name for name in METHODS if not words or name in words or name.partition('.')[0] in words]
    return {name: formulas.formula(METHODS[name]) for name in names}


def _methods(names: list[str]) -> Iterator[Finding]:
    from swift.objectives.catalog import METHODS
    from swift.verify import formulas, peers, tiny

    for name in names:
        for check in (formulas.check, tiny.check, peers.check):
            yield from check(name, METHODS[name])


def _kernels() -> Iterator[Finding]:
    from swift.kernels.check import CASES
    from swift.verify import kernels

    for case in CASES.values():
        yield from kernels.check(case)


def _watched(findings: Iterator[Finding]) -> Iterator[Finding]:
    """The same, with what is being looked at on a terminal's last line."""
    shown = sys.stderr.isatty()
    for each in findings:
        if shown:
            sys.stderr.write(f'\r\x1b[K{each.part} {each.name}: {each.what} ')
            sys.stderr.flush()
        yield each
    if shown:
        sys.stderr.write('\r\x1b[K')
