"""swift pt: next-token training on plain text. The same line as ``swift sft`` with other defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swift.commands import configs
from swift.commands.sft import main


def pt_main(args: Any = None) -> Path | None:
    """Train on plain text as ``swift pt`` does; ``args`` as for ``sft_main``."""
    return main(configs.resolve('pt', args))


__all__ = ['main', 'pt_main']
