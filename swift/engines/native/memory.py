"""How many pages of keys and values there are."""

from __future__ import annotations

import torch

from swift.core.errors import ConfigError
from swift.kernels.decoder import PAGE, up

SHARE = {'cpu': 0.25, 'cuda': 0.8}  # of the memory that is free, where nothing is said
ASSUMED = 2 << 30  # bytes, where the system does not tell what is free


def pages(size: int, *, device: torch.device, longest: int, at_once: int, wanted: int | None) -> int:
    """A number of pages of ``size`` bytes.

    Args:
        longest: tokens of the longest sequence.
        at_once: sequences that may run together.
        wanted: tokens to have room for; None for what free memory allows.

    Raises:
        ConfigError: ``wanted`` is less than a page.
    """
    if wanted is not None and wanted < PAGE:
        raise ConfigError(f'--max_kv_tokens {wanted}: give at least {PAGE}')
    count = int(SHARE.get(device.type, SHARE['cpu']) * _free(device) / size) if wanted is None else wanted // PAGE
    return max(1, min(count, at_once * up(longest, PAGE) // PAGE))


def _free(device: torch.device) -> int:
    """Bytes that programs can still have there."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            lines = dict(line.split(':', 1) for line in file)
        return int(lines['MemAvailable'].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return ASSUMED
