"""The folder of a run: ``output_dir/vN-YYYYMMDD-HHMMSS``."""

from __future__ import annotations

import re
import time
from pathlib import Path

from swift.core import files
from swift.core.errors import ConfigError

VERSION = re.compile(r'v(\d+)-\d{8}-\d{6}')


def new(output_dir: Path, *, versioned: bool) -> Path:
    """Make the folder of a new run: the next version under ``output_dir``, or ``output_dir`` itself.

    Raises:
        LockedError: ``output_dir`` itself is asked for, and another run is writing to it.
        ConfigError: ``output_dir`` itself is asked for and holds checkpoints already.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    if not versioned:
        with files.lock(output_dir):
            if any(output_dir.glob('checkpoint-*')):
                raise ConfigError(
                    f'--output_dir {output_dir} holds checkpoints of another run. Go on from it with '
                    f'--resume_from_checkpoint last, choose another folder, or leave --add_version on'
                )
        return output_dir
    while True:
        version = 1 + max((number for number, _ in versions(output_dir)), default=-1)
        folder = output_dir / f'v{version}-{time.strftime("%Y%m%d-%H%M%S")}'
        try:
            folder.mkdir()
        except FileExistsError:  # another run took the same version in the same second
            continue
        return folder


def versions(output_dir: Path) -> list[tuple[int, Path]]:
    """The runs under ``output_dir``, oldest first."""
    found = [(VERSION.fullmatch(path.name), path) for path in output_dir.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)
