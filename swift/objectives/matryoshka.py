"""``--mrl_dims``: of which shorter embeddings a loss is computed too, and with which weight."""

from __future__ import annotations

import json


def dims(given: dict | str | None) -> dict[int, float]:
    """{size: weight} of a JSON text or what it says.

    Raises:
        ValueError: it is not that, or a size is below 1.
    """
    try:
        values = json.loads(given) if isinstance(given, str) else given or {}
        found = {int(size): float(weight) for size, weight in values.items()}
    except (ValueError, TypeError, AttributeError):
        found = {0: 0.0}
    if any(size < 1 for size in found):
        raise ValueError('expected JSON of sizes and weights, like {"64": 1.0, "384": 1.0}')
    return found
