"""One hash over everything that decides how a row becomes tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(told: Mapping[str, Any], tokenizer: Any) -> str:
    """Hash of ``told`` (sources, flags, lengths ...), of the tokenizer's content and of this room's code."""
    seal = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    seal.update(tokenizer.backend_tokenizer.to_str().encode())
    room = Path(__file__).parent
    for path in sorted([*room.glob('*.py'), *room.glob('files/*.yaml')]):
        seal.update(path.read_bytes())
    return seal.hexdigest()
