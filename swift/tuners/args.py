"""Flags that say which weights learn, and how."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class TunerArgs:
    """Full, frozen in part, or adapters."""

    tuner_type: Literal['lora', 'full'] = 'lora'
    """What learns: low-rank adapters beside the weights, or the weights themselves."""
    target_modules: list[str] = field(default_factory=lambda: ['all-linear'])
    """Modules that get adapters: name endings, or all-linear, all-embedding, all-norm, all-router."""
    target_regex: str | None = None
    """Regular expression over module names, instead of target_modules."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained whole and saved with the adapter, or all-embedding, all-norm."""
    lora_rank: int = 8
    """Rank of the low-rank update."""
    lora_alpha: float = 32.0
    """Scale: the update is multiplied by lora_alpha / lora_rank."""
    lora_dropout: float = 0.05
    """Dropout on the adapter's input."""
    lora_bias: Literal['none', 'all'] = 'none'
    """Whether biases learn."""
    lora_dtype: Literal['float16', 'bfloat16', 'float32'] | None = None
    """Data type of the adapter's weights; None means float32 when training in 16 bit."""
    lorap_lr_ratio: float | None = None
    """LoRA+: learning rate of B over that of A, about 10 to 16."""
    use_rslora: bool = False
    """rsLoRA: scale by lora_alpha / sqrt(lora_rank)."""
    use_dora: bool = False
    """DoRA: learn magnitude and direction apart."""
    init_weights: str = 'true'
    """Start of the adapter: true, false, gaussian, pissa, pissa_niter_N, olora."""
    freeze_parameters: list[str] = field(default_factory=list)
    """Prefixes of parameter names that do not learn (full)."""
    freeze_parameters_regex: str | None = None
    """Regular expression of parameter names that do not learn (full)."""
    freeze_parameters_ratio: float = 0.0
    """Part of the parameters, from the input side, that does not learn (full), 0 to 1."""
    trainable_parameters: list[str] = field(default_factory=list)
    """Prefixes of parameter names that learn all the same (full)."""
    trainable_parameters_regex: str | None = None
    """Regular expression of parameter names that learn all the same (full)."""
    tuner_backend: Literal['peft'] = 'peft'
    """Library of the adapters."""
