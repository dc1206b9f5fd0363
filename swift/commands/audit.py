"""swift audit: whether the log of a server's requests is what was written.

    swift audit verify FILE [--head HASH]

Prints how many entries there are and the hash of the last one. Keep that elsewhere: with ``--head`` it shows next time
whether lines were cut off at the end. The exit code is 0 where every entry is as it was written, 74 where not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.commands.configs import CONFIGS, VOCABULARY
from swift.core.config import parse
from swift.core.errors import ConfigError, CorruptError
from swift.core.log import say


def main(args: Sequence[str] | None = None) -> int:
    """Check a file."""
    words = list(sys.argv[1:] if args is None else args)
    if len(words) < 2 or words[0] != 'verify' or words[1].startswith('--'):
        raise ConfigError('swift audit: expected verify FILE')
    asked = parse(CONFIGS['audit'], words[2:], VOCABULARY, os.environ).audit
    from swift.serve.audit import hashes, verify

    path = Path(words[1])
    head = verify(path)
    if asked.head is not None and asked.head not in hashes(path):
        raise CorruptError(f'{path}: no entry has the hash {asked.head}: lines were cut off, or all was replaced')
    if asked.json:
        say(json.dumps({'entries': head.count, 'head': head.hash}))
    else:
        say(f'{path}: {head.count} entries, none changed; the last one has the hash {head.hash}')
    return 0
