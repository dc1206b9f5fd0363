"""swift rlhf: the same line as ``swift sft`` with rows of preferences, another objective, and perhaps a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.commands import configs
from swift.commands.sft import main


def rlhf_main(args: Any = None) -> Path | None:
    """Align as ``swift rlhf`` does; ``args`` as for ``sft_main``."""
    return main(configs.resolve('rlhf', args))


__all__ = ['main', 'rlhf_main']
