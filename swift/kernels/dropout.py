"""Dropout whose mask is a hash of a seed and the position, so that it is computed again instead of being kept.

The seed is drawn from torch's generator: runs repeat, and gradient checkpointing sees the same mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swift.kernels import compiled

torch.library.define('swift::hash_dropout', '(Tensor x, Tensor(a!) out, Tensor seed, float p, bool add) -> ()')


@torch.library.register_fake('swift::hash_dropout')
def _(x: Tensor, out: Tensor, seed: Tensor, p: float, add: bool) -> None:
    return None


@torch.library.impl('swift::hash_dropout', 'CompositeExplicitAutograd')
def _dropout(x: Tensor, out: Tensor, seed: Tensor, p: float, add: bool) -> None:
    if compiled.supported(x, out) and compiled.missing() is None:
        run = compiled.function(f'dropout_{"bf16" if x.dtype == torch.bfloat16 else "f32"}', 'pp iii f i')
        run(x, out, x.numel(), int(seed), threshold(p), 1 / (1 - p), int(add))
        return
    plain_dropout_(x, out, seed, p, add=add)


def plain_dropout_(x: Tensor, out: Tensor, seed: Tensor, p: float, *, add: bool) -> None:
    """The same in torch's operations."""
    at = torch.arange(x.numel(), device=x.device)
    key = _mixed(seed.to(x.device) & MASK ^ _mixed(seed.to(x.device) >> 32 & MASK))
    keep = _mixed(at * 0x9E3779B1 & MASK ^ key) >= threshold(p)
    kept = (x * keep.view_as(x)) / (1 - p)
    out.add_(kept) if add else out.copy_(kept)


MASK = 0xFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    """murmur3's finaliser on 32 bits in int64. The product of two 32-bit numbers wraps, its low bits are right."""
    x = x ^ x >> 16
    x = x * 0x85EBCA6B & MASK
    x = x ^ x >> 13
    x = x * 0xC2B2AE35 & MASK
    return x ^ x >> 16


def threshold(p: float) -> int:
    """Hashes below it are dropped."""
    return min(round(p * 2**32), MASK)


def new_seed() -> Tensor:
    """63 random bits of torch's CPU generator."""
    return torch.randint(2**63 - 1, ())


def dropout_(x: Tensor, out: Tensor, seed: Tensor, p: float, *, add: bool = False) -> Tensor:
    """``out = x m / (1 - p)``, or ``out += ...``; m is 0 with probability p, by a hash of (seed, position)."""
    torch.ops.swift.hash_dropout(x, out, seed, p, add)
    return out
