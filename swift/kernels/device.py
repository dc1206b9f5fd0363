"""Which fused kernel a tensor gets: C++ on the CPU, Triton on CUDA, none elsewhere."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from swift.kernels import compiled

DTYPES = {
    'cpu': (torch.bfloat16, torch.float32),
    'cuda': (torch.bfloat16, torch.float16, torch.float32),
}


def fused(*tensors: Tensor) -> bool:
    """Whether the fused kernels take these: one device that has them, one dtype that they compute."""
    device, dtype = tensors[0].device.type, tensors[0].dtype
    return (
        dtype in DTYPES.get(device, ())
        and all(each.dtype == dtype and each.device.type == device for each in tensors)
        and missing(device) is None
    )


@torch.compiler.assume_constant_result
def missing(device: str) -> str | None:
    """None where the fused kernels of a kind of device run, else why they do not."""
    if device not in _MISSING:
        _MISSING[device] = _why_missing(device)
    return _MISSING[device]


_MISSING: dict[str, str | None] = {}


def _why_missing(device: str) -> str | None:
    if device == 'cpu':
        return compiled.missing()
    if device == 'cuda':
        return None if importlib.util.find_spec('triton') else 'triton is not installed (pip install triton)'
    return f'there are no fused kernels for {device}'
