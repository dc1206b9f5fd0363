"""``--mrl_dims``: of which shorter embeddings a loss is computed too, and with which weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from swift.core.log import once

if TYPE_CHECKING:
    from torch import Tensor


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


def mixed(embeddings: Tensor, weights: Mapping[int, float], losses: Callable[[Tensor], Tensor]) -> Tensor:
    """sum_m c_m loss(e_1..m / |e_1..m|), e_1..m the first m numbers of an embedding.  arXiv 2205.13147, eq. 1

    Args:
        embeddings: [N, d]; sizes beyond d are left out.
        losses: of embeddings [N, m]; any shape, they are summed.
    """
    import torch
    import torch.nn.functional as F

    fitting = {size: weight for size, weight in weights.items() if size <= embeddings.shape[1]}
    if len(fitting) < len(weights):
        once(f'mrl_dims: embeddings have {embeddings.shape[1]} numbers; what asks for more is left out')
    parts = (w * losses(F.normalize(embeddings[:, :size], dim=-1)).sum() for size, w in fitting.items())
    return torch.stack(list(parts))
