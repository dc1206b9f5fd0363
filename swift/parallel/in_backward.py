"""The optimizer's step within the backward pass: a gradient moves its weight as soon as it is complete, and is freed.

A step of one micro-batch without clipping then never holds all gradients at once; the weights become the same to the
last bit. Clipping needs the norm of all gradients before the first weight moves, several micro-batches need the sum of
theirs, and the search for fp16's loss scale must be able to drop a whole step: those steps keep their gradients.

A loss that is not finite moves nothing, as ever. A gradient that is not finite while the loss is: its weight and those
whose gradients come after it, nearer to the input, stay as they are, those before it have moved by their own finite
gradients. The step counts as skipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from swift.kernels.adamw import AdamW
from swift.kernels.logprobs import wide


def obstacle(optimizer: torch.optim.Optimizer, *, max_grad_norm: float, fp16: bool) -> str | None:
    """Why weights cannot move within the backward pass, and what to do; None where they can."""
    if max_grad_norm:
        return f'--max_grad_norm {max_grad_norm:g} needs all gradients at once; --max_grad_norm 0 does not clip'
    if fp16:
        return 'the search for the loss scale of fp16 must be able to drop a step; take --torch_dtype bfloat16'
    if not isinstance(optimizer, AdamW):
        return 'only --optim adamw_torch, adamw_torch_fused and adamw_bf16 move one weight at a time (--kernels adamw)'
    return None


class InBackward:
    """Moves weights while a backward pass runs between ``begin`` and ``end``."""

    def __init__(self, optimizer: AdamW):
        self.optimizer = optimizer
        self.running = False
        self._norms: dict[Tensor, float] = {}
        self._finite = True

    def begin(self, *, dry: bool = False) -> None:
        """From here on gradients are consumed. The rates of the optimizer's groups are those of this step.

        Args:
            dry: gradients are consumed, but move nothing.
        """
        self.running, self._finite, self._norms = True, True, {}
        self._places = {} if dry else self.optimizer.places()

    def take(self, weight: Parameter, grad: Tensor) -> None:
        """Move a weight by its gradient, unless this or an earlier gradient of the step is not finite."""
        self._norms[weight] = norm = float(torch.linalg.vector_norm(grad, dtype=wide(grad.dtype)))
        self._finite = self._finite and math.isfinite(norm)
        if self._finite and self._places:
            self.optimizer.move(weight, grad, self._places[weight])

    def drop(self) -> None:
        """There is no backward pass, as the loss is not finite."""
        self._finite, self._norms = False, {}

    def end(self, weights: Iterable[Tensor]) -> tuple[float, bool]:
        """The norm of all gradients, summed in the order of ``weights``, and whether every weight moved."""
        self.running = False
        norms = [self._norms[weight] for weight in weights if weight in self._norms]
        if not self._finite and not norms:
            return math.nan, False
        return float(torch.tensor(norms).norm()), self._finite
