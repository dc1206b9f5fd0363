"""How far results of two ways to compute the same are apart."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def relative(found: Tensor, expected: Tensor) -> float:
    """``|found - expected| / |expected|`` in Euclidean norms, fp64; infinite for other shapes and for NaN."""
    if found.shape != expected.shape:
        return float('inf')
    found, expected = found.double(), expected.double()
    apart = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return apart if apart == apart else float('inf')
