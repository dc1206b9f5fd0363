"""Weights that are quantised while they are loaded (QLoRA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError, need
from swift.models.args import QuantArgs

if TYPE_CHECKING:
    from torch import Tensor, nn


def quantization_config(args: QuantArgs, dtype: str) -> Any:
    """The transformers configuration that the flags ask for, or None.

    Args:
        dtype: of the weights; 4-bit products are computed in it unless --bnb_4bit_compute_dtype says otherwise.

    Raises:
        ConfigError: a combination that does not exist or is not built yet.
        SwiftError: bitsandbytes is not installed.
    """
    if args.quant_method is None and args.quant_bits is None:
        return None
    if args.quant_method not in (None, 'bnb'):
        raise ConfigError(f'--quant_method {args.quant_method}: not built yet; use bnb')
    if args.quant_bits not in (4, 8):
        raise ConfigError(f'--quant_bits {args.quant_bits}: bnb has 4 and 8')
    need('bitsandbytes')
    from transformers import BitsAndBytesConfig

    if args.quant_bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=args.bnb_4bit_compute_dtype or dtype,
        bnb_4bit_quant_type=args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=args.bnb_4bit_use_double_quant,
        bnb_4bit_quant_storage=args.bnb_4bit_quant_storage,
    )


def unpacker(layer: nn.Module) -> Callable[[], Tensor] | None:
    """What unpacks the 4-bit weight of a bitsandbytes layer to [outputs, inputs]; None for any other layer.

    From then on the layer does not rearrange its weight for answering on a CPU, as it does in calls without gradient.
    """
    if type(layer).__name__ != 'Linear4bit' or getattr(layer.weight.quant_state, 'packing_format_for_cpu', False):
        return None
    from bitsandbytes.functional import dequantize_4bit

    layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return lambda: dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(layer.compute_dtype)  # type: ignore
