"""Flags of export: what is made of a model, where it goes, and how it is proven."""

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class ExportArgs:
    """Merging an adapter, and the proof that the merged model answers alike."""

    merge_lora: bool = False
    """Merge the adapter into the weights."""
    output_dir: str | None = None
    """Folder of the result; None means <checkpoint>-merged."""
    exist_ok: bool = False
    """Replace the folder if it is there."""
    max_shard_size: str = '5GB'
    """Largest weight file."""
    parity: Literal['refuse', 'warn', 'off'] = 'refuse'
    """When merged and unmerged answers differ by more than the thresholds: no result, a warning, or no test."""
    parity_kl: float | None = None
    """Largest mean divergence (KL) of next-token distributions, nats; None: 1e-2 (bf16), 1e-3 (fp16), 1e-5 (fp32)."""
    parity_top1: float = 0.98
    """Smallest part of positions at which both prefer the same token, 0 to 1."""
