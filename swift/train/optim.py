"""Optimizers and parameter groups: which rate and decay each weight gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter

from swift.core.errors import ConfigError, did_you_mean, need
from swift.kernels.adamw import AdamW

NO_DECAY = re.compile(r'bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)', re.IGNORECASE)


def _adamw(fused: bool) -> Callable[..., torch.optim.Optimizer]:
    def make(groups: list[dict], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused, foreach=False)

    return make


def _bitsandbytes(name: str) -> Callable[..., torch.optim.Optimizer]:
    def make(groups: list[dict], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
        return getattr(need('bitsandbytes').optim, name)(groups, lr=lr, betas=betas, eps=eps)

    return make


def _one_pass(moments: torch.dtype) -> Callable[..., torch.optim.Optimizer]:
    def make(groups: list[dict], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
        return AdamW(groups, lr=lr, betas=betas, eps=eps, moments=moments)

    return make


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    'adamw_torch_fused': _adamw(True),
    'adamw_torch': _adamw(False),
    'adamw_bf16': _one_pass(torch.bfloat16),
    'adamw_8bit': _bitsandbytes('AdamW8bit'),
    'adamw_bnb_8bit': _bitsandbytes('AdamW8bit'),
    'paged_adamw_8bit': _bitsandbytes('PagedAdamW8bit'),
    'sgd': lambda groups, *, lr, betas, eps: torch.optim.SGD(groups, lr=lr),
}
ONE_PASS = {'adamw_torch_fused', 'adamw_torch'}
"""What the AdamW of the kernels room computes, too, to the last digits of fp32."""
WITHOUT_MASTERS = {'adamw_bf16'}
"""Optimizers that move 16-bit weights themselves, with stochastic rounding, and keep no fp32 copy of them."""


def make(
    name: str,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    one_pass: bool = False,
    seed: int = 0,
) -> torch.optim.Optimizer:
    """The optimizer called ``name`` over ``groups``.

    Args:
        one_pass: use the kernel where it computes the same.
        seed: of stochastic rounding.

    Raises:
        ConfigError: unknown name.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f'--optim {name}: unknown{did_you_mean(name, OPTIMIZERS)} Known: {", ".join(OPTIMIZERS)}')
    maker = _one_pass(torch.float32) if one_pass and name in ONE_PASS else OPTIMIZERS[name]
    made = maker(groups, lr=lr, betas=betas, eps=eps)
    if isinstance(made, AdamW):
        made.seed = seed
    return made


def groups(
    model: nn.Module,
    masters: dict[str, Parameter],
    *,
    lr: float,
    weight_decay: float,
    lorap_lr_ratio: float | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups, each with ``lr``, ``peak`` (the same number, for the schedule) and ``weight_decay``.

    Biases and norms are not decayed. LoRA+ (arXiv 2402.12354, section 5): the rate of B is ``lorap_lr_ratio`` times
    that of A.

    Args:
        masters: trainable parameters by name, in the precision they are updated in.
    """
    norms = {
        f'{prefix}.{name}' if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    table: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in masters.items():
        decay = 0.0 if name in norms or NO_DECAY.search(name) else weight_decay
        rate = lr * lorap_lr_ratio if lorap_lr_ratio and ('lora_B' in name or 'lora_embedding_B' in name) else lr
        table.setdefault((rate, decay), []).append(parameter)
    return [
        {'params': parameters, 'lr': rate, 'peak': rate, 'weight_decay': decay}
        for (rate, decay), parameters in table.items()
    ]
