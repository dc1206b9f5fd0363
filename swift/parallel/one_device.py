"""The training step on one device: CPU, CUDA or Apple MPS.

Trainable weights of 16 bits have fp32 masters: gradients of every micro-batch are added up in fp32, the optimizer
moves the masters, the model holds their rounding. Packs run in one forward pass through packed attention; a model
that cannot pack runs one sequence at a time, with the same losses and gradients.

Shapes: ``T`` tokens, ``N`` sequences, ``S`` supervised targets, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from swift.core.errors import ConfigError, NumericalError
from swift.core.types import Batch, Builder, Objective, Outputs, Segments
from swift.kernels import attention
from swift.kernels.logprobs import target_logprobs

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
CHECK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest relative difference of the loss of the first batch between packed and separate sequences."""
GROWTH_INTERVAL = 2000
"""Steps without overflow after which the fp16 loss scale doubles, as torch's GradScaler."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a step; everything here is a plain value."""

    device: str = 'cpu'
    max_length: int = 2048  # longest sequence that will come, for the attention probe
    autocast: str | None = None  # 'bfloat16' | 'float16' over weights of another type
    max_grad_norm: float = 1.0  # 0: no clipping
    gradient_checkpointing: bool = False
    neftune_alpha: float = 0.0
    attn_impl: str | None = None  # 'eager': the plain path, one sequence at a time
    kernel_check: Literal['fallback', 'refuse', 'off'] = 'fallback'  # when the first batch differs from the plain path
    tf32: bool | None = None


class TorchBackend:
    """``core.types.TrainBackend`` on one device.

    Args:
        optimizer: makes the optimizer from (model, masters by name); groups carry ``peak``.
        schedule: share of the peak rate at step 0, 1, ...
        write_model: writes the model the way others open it: (model, folder).
    """

    def __init__(
        self,
        builder: Builder,
        settings: Settings,
        *,
        optimizer: Callable[[nn.Module, dict[str, Parameter]], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        write_model: Callable[[nn.Module, Path], None],
    ):
        self.settings = settings
        self.device = torch.device(settings.device)
        self.model = builder.build()
        if not getattr(self.model, 'is_quantized', False) and not getattr(self.model, 'hf_device_map', None):
            self.model.to(self.device)
        self.schedule, self.write_model = schedule, write_model
        self.step_count = 0
        self._fp16 = settings.autocast == 'float16' or self.model.dtype == torch.float16
        self.loss_scale = 2.0**16 if self._fp16 else 1.0
        self._good_steps = 0
        self._noise = Neftune(settings.neftune_alpha) if settings.neftune_alpha else None
        self._prepare_model()
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.masters = {
            name: Parameter(p.detach().float()) if p.dtype in HALF else p for name, p in self.trained.items()
        }
        self.optimizer = optimizer(self.model, self.masters)
        self._collect_gradients()

    # ------------------------------------------------------------------------------------------------- building
    def _prepare_model(self) -> None:
        unwrap: Any = getattr(self.model, 'get_base_model', None)  # a peft model has one
        base = cast(PreTrainedModel, unwrap() if unwrap else self.model)
        base.config.use_cache = False
        self._slices_logits = 'logits_to_keep' in inspect.signature(base.forward).parameters
        self._base, self._plain_attention = base, base.config._attn_implementation or 'eager'
        self.unpacked_reason = (
            f'--attn_impl {self.settings.attn_impl} asks for the plain path'
            if self.settings.attn_impl == 'eager'
            else attention.install(base, self.settings.max_length)
        )
        self._unchecked = self.unpacked_reason is None and self.settings.kernel_check != 'off'
        if self.settings.gradient_checkpointing:
            base.gradient_checkpointing_enable({'use_reentrant': False})
        if self._noise is not None:
            base.get_input_embeddings().register_forward_hook(self._noise)
        self.model.train()

    def _collect_gradients(self) -> None:
        """Add each finished gradient of a 16-bit weight to its fp32 master and drop it at once."""
        for name, parameter in self.trained.items():
            master = self.masters[name]
            if master is parameter:
                continue

            def move(parameter: Tensor, master: Parameter = master) -> None:
                grad = parameter.grad
                assert grad is not None
                if master.grad is None:
                    master.grad = grad.float()
                else:
                    master.grad.add_(grad)
                parameter.grad = None

            parameter.register_post_accumulate_grad_hook(move)

    # --------------------------------------------------------------------------------------------------- a step
    def forward_backward(self, micro: list[Batch], objective: Objective) -> dict[str, tuple[Tensor, Tensor]]:
        """Accumulate the gradient of sum(loss) / count over the micro-batches of one optimizer step."""
        if self._unchecked:
            self._compare_with_plain(micro[0])
        count = sum(objective.count(batch) for batch in micro)
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        for batch in micro:
            batch = batch.to(self.device)
            loss = objective(self._outputs(batch), batch)
            if loss.total.requires_grad:
                (loss.total * (self.loss_scale / max(1, count))).backward()
            for name, (total, weight) in loss.metrics.items():
                before = metrics.get(name)
                metrics[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)
        return metrics

    @torch.no_grad()
    def forward(self, micro: list[Batch]) -> list[Outputs]:
        """Outputs of each micro-batch without gradients, dropout or noise."""
        self.model.eval()
        try:
            return [self._outputs(batch.to(self.device)) for batch in micro]
        finally:
            self.model.train()

    @torch.no_grad()
    def optim_step(self, *, discard: bool = False) -> dict[str, float]:
        """Clip, update masters, round them into the model. A non-finite gradient, or ``discard``, updates nothing."""
        masters = [p for p in self.masters.values() if p.grad is not None]
        if self.loss_scale != 1.0:
            for parameter in masters:
                parameter.grad.mul_(1.0 / self.loss_scale)  # type: ignore[union-attr]
        limit = self.settings.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(masters, limit, foreach=False)) if masters else 0.0
        finite = math.isfinite(norm) and not discard
        rate = self._set_rates()
        if finite:
            self.optimizer.step()
            for name, parameter in self.trained.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        for parameter in self.masters.values():
            parameter.grad = None
        searching = not discard and self._adjust_loss_scale(finite)
        if finite:
            self.step_count += 1
        return {
            'grad_norm': norm,
            'learning_rate': rate,
            'skipped': float(not finite),
            'scale_search': float(not finite and searching),
        }

    def _set_rates(self) -> float:
        share = self.schedule(self.step_count)
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak'] * share
        return max(group['lr'] for group in self.optimizer.param_groups)

    def _adjust_loss_scale(self, finite: bool) -> bool:
        """fp16 only: halve on overflow, double after GROWTH_INTERVAL good steps. True while there is room below."""
        if not self._fp16:
            return False
        self._good_steps = self._good_steps + 1 if finite else 0
        if not finite:
            self.loss_scale /= 2
        elif self._good_steps % GROWTH_INTERVAL == 0:
            self.loss_scale *= 2
        return self.loss_scale >= 1.0

    def _compare_with_plain(self, batch: Batch) -> None:
        """Hold the packed forward of the first batch against one sequence at a time; fall back or refuse.

        Raises:
            NumericalError: they differ and ``kernel_check`` is ``refuse``.
        """
        self._unchecked = False
        packed, weight = self.forward([batch])[0].logps, batch.weight.to(self.device)
        self._base.set_attn_implementation(self._plain_attention)
        self.unpacked_reason = 'the first batch is compared with the plain path'
        plain = self.forward([batch])[0].logps
        expected = float((weight * plain).sum())
        difference = abs(float((weight * packed).sum()) - expected) / max(abs(expected), 1e-30)
        text = f'packed and separate sequences of the first batch: losses differ by {difference:.1e}'
        allowed = CHECK_TOLERANCE[self._base.dtype if self.settings.autocast is None else torch.bfloat16]
        if difference <= allowed or not math.isfinite(expected):
            self._base.set_attn_implementation(attention.NAME)
            self.unpacked_reason = None
            logger.info('%s (allowed %.0e)', text, allowed)
        elif self.settings.kernel_check == 'refuse':
            raise NumericalError(f'{text}, allowed {allowed:.0e}; --kernel_check fallback trains without packing')
        else:
            self.unpacked_reason = f'{text}, allowed {allowed:.0e}'
            logger.warning('%s: going on one sequence at a time', self.unpacked_reason)

    # ------------------------------------------------------------------------------------------------- forward
    def _outputs(self, batch: Batch) -> Outputs:
        if self._noise is not None:
            self._noise.segments = batch.segments if self.unpacked_reason is None else None
        if self.unpacked_reason is None:
            logps, correct = self._pack(batch.input_ids, batch.position_ids, batch.weight, batch.segments)
            return Outputs(logps, correct)
        ids, positions, weights = (
            x.split(batch.segments.lengths) for x in (batch.input_ids, batch.position_ids, batch.weight)
        )
        parts = [self._pack(i, p, w, None) for i, p, w in zip(ids, positions, weights, strict=True)]
        return Outputs(torch.cat([logps for logps, _ in parts]), torch.cat([correct for _, correct in parts]))

    def _pack(
        self, input_ids: Tensor, position_ids: Tensor, weight: Tensor, segments: Segments | None
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [T] and hits [T] of one row of tokens; zeros where the weight is 0."""
        targets = torch.nonzero(weight)[:, 0]  # [S]
        wide = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        logps = torch.zeros(len(weight), dtype=wide, device=weight.device)
        correct = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
        if len(targets) == 0:
            return logps, correct
        inputs: dict[str, Any] = {'input_ids': input_ids[None], 'use_cache': False}
        if segments is not None:
            inputs |= {'position_ids': position_ids[None], 'segments': segments}
        if self._slices_logits:
            inputs['logits_to_keep'] = targets - 1
        with self._autocast():
            logits = self.model(**inputs).logits[0]  # [S, V], or [T, V]
        if not self._slices_logits:
            logits = logits[targets - 1]
        found, hits = target_logprobs(logits, input_ids[targets])
        return logps.index_put((targets,), found), correct.index_put((targets,), hits)

    def _autocast(self) -> AbstractContextManager:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.autocast))

    # --------------------------------------------------------------------------------------------------- state
    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Trainable weights as the model holds them."""
        yield from self.trained.items()

    def export(self, folder: Path) -> None:
        self.write_model(self.model, folder)

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Start from these weights, by the names of ``weights``. Raises ConfigError when they do not fit."""
        missing = sorted(self.masters.keys() - tensors.keys())
        wrong = [name for name, p in self.masters.items() if name in tensors and tensors[name].shape != p.shape]
        if missing or wrong:
            named = ', '.join((missing or wrong)[:3])
            raise ConfigError(f'the checkpoint does not fit what is trained here: {named} missing or of another shape')
        for name, master in self.masters.items():
            master.copy_(tensors[name])
            if master is not self.trained[name]:
                self.trained[name].copy_(master)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f'param/{name}': p.detach() for name, p in self.masters.items()}
        scalars: dict[str, dict[str, Any]] = {}
        for name, p in self.masters.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    tensors[f'optim/{name}/{key}'] = value.detach()
                else:
                    scalars.setdefault(name, {})[key] = value
        data = {
            'step_count': self.step_count,
            'loss_scale': self.loss_scale,
            'good_steps': self._good_steps,
            'optim_scalars': scalars,
        }
        return tensors, data

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], data: dict[str, Any]) -> None:
        """Inverse of ``state``. Raises KeyError when a trained weight is missing, ValueError when one is unknown."""
        known: set[str] = set()
        for name, master in self.masters.items():
            value = tensors[f'param/{name}']
            if value.shape != master.shape:
                raise ValueError(f'{name}: saved {tuple(value.shape)}, here {tuple(master.shape)}')
            master.copy_(value)
            if master is not self.trained[name]:
                self.trained[name].copy_(master)
            prefix = f'optim/{name}/'
            state = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            state = {key: value.to(master.device if value.dim() else 'cpu').clone() for key, value in state.items()}
            known |= {f'param/{name}', *(prefix + key for key in state)}
            state |= data['optim_scalars'].get(name, {})
            if state:
                self.optimizer.state[master] = state
        if unknown := sorted(set(tensors) - known):
            raise ValueError(f'the state has weights that are not trained here: {", ".join(unknown[:5])}')
        self.step_count = data['step_count']
        self.loss_scale = data['loss_scale']
        self._good_steps = data['good_steps']


class Neftune:
    """Noise on embeddings in training: uniform in +-alpha / sqrt(L d), L the tokens of the sequence.

    NEFTune, arXiv 2310.05914, algorithm 1. L is each sequence's own length, not a padded or packed one.
    """

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.segments: Segments | None = None

    def __call__(self, module: nn.Module, args: tuple, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        length, width = embedded.shape[-2:]
        lengths = self.segments.lengths if self.segments is not None else (length,)
        each = torch.tensor(lengths, device=embedded.device)
        size = self.alpha / (each * width).sqrt().repeat_interleave(each)  # [T]
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * size[:, None].to(embedded.dtype)
