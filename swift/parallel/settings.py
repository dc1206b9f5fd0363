"""How a training step runs on one device, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.kernels.switch import KERNELS

KernelCheck = Literal['fallback', 'warn', 'refuse', 'off']


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a step; everything here is a plain value."""

    device: str = 'cpu'
    max_length: int = 2048  # longest sequence that will come, for the attention probe
    autocast: str | None = None  # 'bfloat16' | 'float16' over weights of another type
    max_grad_norm: float = 1.0  # 0: no clipping
    gradient_checkpointing: bool = False
    selective_recompute: bool = False  # make norms and gates again in the backward pass
    neftune_alpha: float = 0.0
    attn_impl: str | None = None  # 'eager': the plain path, one sequence at a time
    kernels: frozenset[str] = frozenset(KERNELS)
    kernel_check: KernelCheck = 'fallback'  # when the first batch differs from the plain path
    tf32: bool | None = None
    masters: bool = True  # keep fp32 copies of 16-bit weights
    step_in_backward: bool | None = None  # move weights within the backward pass; None: unless something forbids it
    prefix_sharing: bool = True  # compute what sequences of a group begin with once
