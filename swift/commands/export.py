"""swift export: a trained model becomes what other programs load. Built so far: merging an adapter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from swift.commands import configs
from swift.commands.configs import ExportConfig
from swift.core.errors import ConfigError
from swift.core.log import say
from swift.models.args import split_adapter


def export_main(args: Any = None) -> Path:
    """Export as ``swift export`` does; ``args`` as for ``infer_main``. Returns the folder that was written."""
    return main(configs.resolve('export', args))


def main(cfg: ExportConfig) -> Path:
    """Merge the adapter of the configuration into its model.

    Raises:
        ConfigError: there is not exactly one adapter, or the output folder exists.
        ModelError, ParityError, DiskError: as ``export.merge.merge``.
    """
    from swift import hub, models
    from swift.export import prompts
    from swift.export.merge import merge

    if len(cfg.model.adapters) != 1:
        raise ConfigError(f'--adapters: one adapter is merged at a time; {len(cfg.model.adapters)} are given')
    adapter = hub.fetch(split_adapter(cfg.model.adapters[0])[1], use_hf=cfg.model.use_hf, token=cfg.model.hub_token)
    ask = partial(
        prompts.make, info=models.describe(cfg.model), args=cfg.template, rows=adapter.parent / 'val_dataset.jsonl'
    )
    folder = merge(cfg.model, adapter, ask, cfg.export)
    say(f'merged model: {folder}\n  swift infer --model {folder}')
    return folder
