"""Adapters of a peft model computed in fused groups. Its modules, names and saved files stay as they are.

Layers that are called one after the other with the same input (q, k and v; gate and up) are one group: the first call
computes all of them, the others take their share. Which they are is seen by running a few tokens. A layer that the
kernel does not cover (DoRA, trained biases, a dtype of its own, 8-bit weights) runs as peft wrote it, and so does any
layer while adapters are merged. While they are switched off and no gradient is asked for, W x is one ``product``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from swift.kernels import compiled
from swift.kernels.lora import Member, lora_group
from swift.kernels.product import product
from swift.kernels.switch import Switch, attach
from swift.models.peft import Linear, LoraLayer
from swift.models.quant import unpacker

PROBE = 3  # tokens


def install(model: nn.Module) -> nn.Module:
    """Make every covered adapter of ``model`` part of a fused group; the switch is attached to the model."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _covered(module)]
    if layers:
        groups = [Group(members) for members in _grouped(model, layers)]

        def on() -> None:
            for group in groups:
                group.enter()

        def off() -> None:
            for group in groups:
                group.leave()

        attach(model, Switch('lora', on, off, count=len(layers)))
    return model


@dataclass
class Group:
    """Layers with one input. ``enter`` puts their forward in place, ``leave`` gives them their own back."""

    layers: list[Any]
    _waiting: dict[int, Tensor] = field(default_factory=dict)  # outputs that were computed and not yet asked for
    _input: Tensor | None = None

    def enter(self) -> None:
        for index, layer in enumerate(self.layers):
            layer.forward = partial(self._forward, index)

    def leave(self) -> None:
        for layer in self.layers:
            layer.__dict__.pop('forward', None)

    def _forward(self, index: int, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layers[index]
        if layer.disable_adapters and not args and not kwargs and _is_plain(layer, x):
            base = layer.get_base_layer()
            return product((x.reshape(-1, x.shape[-1]), base.weight.t()), bias=base.bias).view(*x.shape[:-1], -1)
        if args or kwargs or not all(_ready(each, x) for each in self.layers):
            return type(layer).forward(layer, x, *args, **kwargs)
        if self._input is x and index in self._waiting:
            found = self._waiting.pop(index)
        else:
            together = self.layers if index == 0 else [layer]
            outputs = lora_group(x, [_member(each) for each in together], dropout=_dropout(layer))
            found, self._waiting, self._input = outputs[0], dict(enumerate(outputs[1:], 1)), x
        if not self._waiting:
            self._input = None
        return found


def _grouped(model: nn.Module, layers: list[Any]) -> list[list[Any]]:
    """Layers by what a forward pass of a few tokens hands them."""
    calls: list[tuple[Any, Tensor]] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, args[0]))) for layer in layers]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(PROBE, device=device)[None], use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    times = Counter(id(layer) for layer, _ in calls)
    groups: list[list[Any]] = []
    before: Tensor | None = None
    for layer, x in calls:
        if times[id(layer)] > 1:  # shared by several places: always alone
            continue
        if x is before and _dropout(groups[-1][0]) == _dropout(layer):
            groups[-1].append(layer)
        else:
            groups.append([layer])
        before = x
    placed = {id(layer) for group in groups for layer in group}
    return groups + [[layer] for layer in layers if id(layer) not in placed]


# ----------------------------------------------------------------------------------------------------- what is covered
def _covered(layer: Any) -> bool:
    """Whether a layer is W x + s B A drop(x) with a frozen W, all of one dtype."""
    name = _adapter(layer)
    if name is None or name not in layer.lora_A or name in layer.lora_variant or _weight(layer) is None:
        return False
    base, a, b = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    if not type(a) is type(b) is nn.Linear or b.bias is not None or getattr(layer, 'fan_in_fan_out', False):
        return False
    if any(each.requires_grad for each in base.parameters()):
        return False
    return isinstance(layer.lora_dropout[name], nn.Identity | nn.Dropout)


def _adapter(layer: Any) -> str | None:
    return layer.active_adapters[0] if len(layer.active_adapters) == 1 else None


def _weight(layer: Any) -> Callable[[], Tensor] | None:
    base = layer.get_base_layer()
    if type(layer) is Linear and type(base) is nn.Linear:
        return lambda: base.weight
    return unpacker(base)


def _ready(layer: Any, x: Tensor) -> bool:
    """Whether the adapter is at work, in the input's dtype, outside autocast."""
    if layer.disable_adapters or layer.merged or _adapter(layer) is None:
        return False
    if torch.is_autocast_enabled(x.device.type) or layer.lora_A[_adapter(layer)].weight.dtype != x.dtype:
        return False
    base = layer.get_base_layer()
    computed = getattr(base, 'compute_dtype', None) or base.weight.dtype
    return computed == x.dtype and (_dropout(layer) == 0.0 or compiled.supported(x))


def _is_plain(layer: Any, x: Tensor) -> bool:
    """Whether W x without a gradient is all that is asked for."""
    base = layer.get_base_layer()
    mixed = torch.is_autocast_enabled(x.device.type) or torch.is_grad_enabled()
    return type(base) is nn.Linear and not mixed and not layer.merged and base.weight.dtype == x.dtype


def _dropout(layer: Any) -> float:
    dropout = layer.lora_dropout[_adapter(layer)]
    return dropout.p if isinstance(dropout, nn.Dropout) and layer.training else 0.0


def _member(layer: Any) -> Member:
    name, weight = _adapter(layer), _weight(layer)
    assert name is not None and weight is not None
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return Member(weight, getattr(layer.get_base_layer(), 'bias', None), a, b, float(layer.scaling[name]))
