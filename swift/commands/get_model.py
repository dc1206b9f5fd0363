"""``get_model``: one call from an id to a model that is quantised, adapted and on its device, as articles write it.

model = get_model('Qwen/Qwen-7B', quantization_method='bitsandbytes', quantization_bit=4, lora_rank=8)
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from swift.core.errors import ConfigError, did_you_mean
from swift.models.args import ModelArgs
from swift.tuners.args import TunerArgs

if TYPE_CHECKING:
    from torch import nn

METHODS = {'bitsandbytes': 'bnb'}  # names of libraries -> values of --quant_method


def get_model(
    model_id_or_path: str,
    *,
    quantization_method: str | None = None,
    quantization_bit: int | None = None,
    lora_rank: int | None = None,
    device_map: dict | str | None = None,
    **flags: Any,
) -> nn.Module:
    """A model in memory, with a fresh LoRA adapter if ``lora_rank`` is given.

    Args:
        quantization_method: bitsandbytes (or bnb); ``quantization_bit`` 4 or 8.
        device_map: as ``--device_map``; None spreads the model over the accelerators there are.
        flags: any other flag of ``swift sft`` that chooses a model or an adapter: ``torch_dtype``, ``lora_alpha``, ...

    Raises:
        ConfigError: an argument is unknown or wrong.
        ModelError: the model cannot be loaded.
    """
    import torch

    from swift import models
    from swift.tuners import TUNERS

    ours, adapter = ({field.name for field in fields(cls)} for cls in (ModelArgs, TunerArgs))
    if unknown := sorted(flags.keys() - ours - adapter):
        raise ConfigError(
            [f'get_model: unknown argument {name}{did_you_mean(name, ours | adapter)}' for name in unknown]
        )
    if device_map is None and torch.accelerator.is_available():
        device_map = 'auto'
    args = ModelArgs(
        model=model_id_or_path,
        quant_method=METHODS.get(quantization_method or '', quantization_method),
        quant_bits=quantization_bit,
        device_map=device_map,
        **{name: value for name, value in flags.items() if name in ours},
    )
    builder = models.load(args)
    if lora_rank is None:
        return builder.build()
    tuner = {name: value for name, value in flags.items() if name in adapter}
    return TUNERS['lora'](builder, TunerArgs(lora_rank=lora_rank, **tuner)).build()
