"""swift merge-lora: ``swift export --merge_lora true`` in one word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from swift.commands import configs
from swift.commands.export import main


def merge_lora(args: Any = None, device_map: dict | str | None = None, replace_if_exists: bool = False) -> Path:
    """Merge an adapter into its model as ``swift merge-lora`` does.

    Args:
        args: an argument list, a configuration or ExportArguments, or None for the command line.
        device_map: where the model is merged, over what ``args`` says.
        replace_if_exists: replace the output folder, as ``--exist_ok true``.

    Returns:
        The folder of the merged model.
    """
    cfg = configs.resolve('merge-lora', args)
    if device_map is not None:
        cfg.model = replace(cfg.model, device_map=device_map)
    if replace_if_exists:
        cfg.export = replace(cfg.export, exist_ok=True)
    return main(cfg)


__all__ = ['main', 'merge_lora']
