"""The door to peft, which comes in without bitsandbytes: by itself it imports that (0.8 s) whatever the model is.

Until peft imports it where layers of it are met: https://github.com/huggingface/peft/pull/1230 was for that, then
``peft.helpers`` and the check of ``peft.tuners.lora.model`` came.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

LIBRARY = 'bitsandbytes'


class Later:
    """A library that is imported when something of it is used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, importing a library that was not imported before fails; other threads would not find it either."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what Python knows as "not to be imported"
    try:
        yield
    finally:
        del sys.modules[name]


with _without(LIBRARY):
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, helpers, import_utils
    from peft.tuners.lora import model as lora_model
    from peft.tuners.lora.layer import Linear, LoraLayer
    from peft.utils import get_peft_model_state_dict

ASKED = ('is_bnb_available', 'is_bnb_4bit_available')
for _each in ASKED:
    getattr(import_utils, _each).cache_clear()  # whatever was found while it was hidden
if helpers.bnb is None and import_utils.is_bnb_available():
    helpers.bnb = Later(LIBRARY)


@contextmanager
def for_layers_of(model: nn.Module) -> Iterator[None]:
    """Within, LoRA does not look for layers of bitsandbytes in a model that has none: the look imports it."""
    if getattr(model, 'is_quantized', False):
        yield
        return
    answers = {name: getattr(lora_model, name) for name in ASKED}
    for name in answers:
        setattr(lora_model, name, lambda: False)
    try:
        yield
    finally:
        for name, answer in answers.items():
            setattr(lora_model, name, answer)


__all__ = [
    'Linear',
    'LoraConfig',
    'LoraLayer',
    'PeftConfig',
    'PeftModel',
    'for_layers_of',
    'get_peft_model',
    'get_peft_model_state_dict',
]
