"""The training step on one device: CPU, CUDA or Apple MPS.

Trainable weights of 16 bits have fp32 masters: gradients of every micro-batch are added up in fp32, the optimizer
moves the masters, the model holds their rounding. An optimizer that rounds stochastically moves the weights themselves.
How the model reads a batch is its ``Runner``'s.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from swift.core.errors import ConfigError, NumericalError
from swift.core.types import Batch, Builder, Loss, Objective, Outputs, Readout, Segments
from swift.kernels import again, arena
from swift.kernels.adamw import AdamW
from swift.kernels.logprobs import wide
from swift.kernels.switch import Switch, plain
from swift.parallel import layout
from swift.parallel.in_backward import InBackward, obstacle
from swift.parallel.runner import Runner
from swift.parallel.settings import Settings

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
LOSS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest relative difference of the loss of the first batch between the kernels and the plain path."""
GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
"""The same for the norm of the difference of all gradients. Gradients in bf16 are 0.04 from those in fp32 whatever
computes them (SmolLM2-135M, 256 tokens), and as far from each other; a wrong one is off by about 1."""
CHECK_TOKENS = 256
"""Tokens of the first batch that are compared."""
GROWTH_INTERVAL = 2000
"""Steps without overflow after which the fp16 loss scale doubles, as torch's GradScaler."""


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
        if self.device.type == 'cpu':
            arena.install()
        self.model = builder.build()
        if not getattr(self.model, 'is_quantized', False) and not getattr(self.model, 'hf_device_map', None):
            self.model.to(self.device)
        self.schedule, self.write_model = schedule, write_model
        self.step_count = 0
        self._fp16 = settings.autocast == 'float16' or self.model.dtype == torch.float16
        self.loss_scale = 2.0**16 if self._fp16 else 1.0
        self._good_steps = 0
        self._noise = Neftune(settings.neftune_alpha) if settings.neftune_alpha else None
        self._hooks: list[RemovableHandle] = []
        self._prepare_model(builder.readout)
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.masters = {
            name: Parameter(p.detach().float()) if settings.masters and p.dtype in HALF else p
            for name, p in self.trained.items()
        }
        self.optimizer = optimizer(self.model, self.masters)
        if isinstance(self.optimizer, AdamW):
            copied = ((self.masters[name], p) for name, p in self.trained.items() if self.masters[name] is not p)
            self.optimizer.copies = {master: p for master, p in copied if p.dtype == torch.bfloat16}
        self._drawn: list[Drawn] = []  # random generators before each micro-batch of a first pass
        self._alone = False  # whether the micro-batch that runs is the only one of its step
        self._in_backward = self._steps_in_backward()
        self._collect_gradients()

    # ------------------------------------------------------------------------------------------------- building
    def _prepare_model(self, readout: Readout | None) -> None:
        self.runner = Runner(self.model, self.settings, readout)
        self.runner.noise = self._noise
        base = self.runner.base
        self.kernels = self.runner.kernels
        self._unchecked = bool(self.kernels) and self.settings.kernel_check != 'off'
        if self.settings.gradient_checkpointing:
            base.gradient_checkpointing_enable({'use_reentrant': False})
        elif self.settings.selective_recompute:
            self._hooks += again.install(base.base_model)
        if self._noise is not None:
            self._hooks.append(base.get_input_embeddings().register_forward_hook(self._noise))
        self.model.train()

    @property
    def unpacked_reason(self) -> str | None:
        """Why sequences run one at a time, or None."""
        return self.runner.unpacked_reason

    def _steps_in_backward(self) -> InBackward | None:
        """What moves weights within the backward pass, or None. Raises ConfigError if it cannot and was asked for."""
        wanted = self.settings.step_in_backward
        reason = obstacle(self.optimizer, max_grad_norm=self.settings.max_grad_norm, fp16=self._fp16)
        if reason and wanted:
            raise ConfigError(f'--step_in_backward true: {reason}')
        return None if reason or wanted is False else InBackward(cast(AdamW, self.optimizer))

    @property
    def steps_in_backward(self) -> bool:
        """Whether weights move within the backward pass of a step that is one micro-batch."""
        return self._in_backward is not None

    def _collect_gradients(self) -> None:
        """Finished gradients of 16-bit weights are added to their fp32 masters and dropped at once.

        The gradient of an only micro-batch stays as it is until the step, or moves its weight within the backward pass.
        """
        halves = isinstance(self.optimizer, AdamW)  # it takes gradients in bf16
        for name, parameter in self.trained.items():
            master = self.masters[name]
            if master is parameter and self._in_backward is None:
                continue

            def move(parameter: Tensor, master: Parameter = master) -> None:
                grad = parameter.grad
                assert grad is not None
                if self._in_backward is not None and self._in_backward.running:
                    self._in_backward.take(master, grad)
                elif master is parameter or (self._alone and halves and parameter.dtype == torch.bfloat16):
                    return
                elif master.grad is None:
                    master.grad = grad.float()
                else:
                    master.grad.add_(grad)
                parameter.grad = None

            self._hooks.append(parameter.register_post_accumulate_grad_hook(move))

    def close(self) -> None:
        """Give the model back as it came, with what it has learned: without hooks, kernels and recomputation."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.runner.close()
        if self.settings.gradient_checkpointing:
            self.runner.base.gradient_checkpointing_disable()
        arena.trim()

    # --------------------------------------------------------------------------------------------------- a step
    def forward_backward(
        self, micro: list[Batch], objective: Objective, *, dry: bool = False
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Accumulate the gradient of sum(loss) / count over the micro-batches of one optimizer step.

        Args:
            dry: no weight moves within the backward pass.
        """
        self.check_kernels(micro[0])
        count = sum(objective.count(batch) for batch in micro)
        metrics: dict[str, tuple[Tensor, Tensor]] = {}
        self._alone = len(micro) == 1
        if mover := self._in_backward if self._alone else None:
            self._set_rates()
            mover.begin(dry=dry)
        drawn, self._drawn = self._drawn, []
        for i, batch in enumerate(micro):
            if drawn:
                drawn[i].again()
            batch = batch.to(self.device)
            loss = objective(self.runner.outputs(batch, objective.needs), batch)
            if mover and not _finite(loss):
                mover.drop()
            elif loss.total.requires_grad:
                (loss.total * (self.loss_scale / max(1, count))).backward()
            for name, (total, weight) in loss.metrics.items():
                before = metrics.get(name)
                metrics[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)
        self._alone = False
        return metrics

    def forward(self, micro: list[Batch], *, needs: frozenset[str] = frozenset({'logps'})) -> list[Outputs]:
        """Outputs of each micro-batch without gradients, dropout or noise."""
        self.check_kernels(micro[0])
        self.model.eval()
        try:
            with torch.no_grad():
                return [self.runner.outputs(batch.to(self.device), needs) for batch in micro]
        finally:
            self.model.train()

    @torch.no_grad()
    def first_pass(self, micro: list[Batch], *, needs: frozenset[str]) -> list[Outputs]:
        """Outputs of the micro-batches of a step without gradients, with dropout and noise.

        ``forward_backward`` of as many then draws the same numbers for each of them.
        """
        self.check_kernels(micro[0])
        self._drawn, found = [], []
        for batch in micro:
            self._drawn.append(Drawn.now(self.device))
            found.append(self.runner.outputs(batch.to(self.device), needs))
        return found

    @torch.no_grad()
    def optim_step(self, *, discard: bool = False) -> dict[str, float]:
        """Clip, update masters, round them into the model. A non-finite gradient, or ``discard``, updates nothing.

        What moved within the backward pass has moved; see ``swift.parallel.in_backward``.
        """
        rate = self._set_rates()
        if self._in_backward is not None and self._in_backward.running:
            norm, finite = self._in_backward.end(self.masters.values())
        else:
            grads = self._gradients()
            norm = _norm(grads) / self.loss_scale
            limit = self.settings.max_grad_norm or math.inf
            finite = math.isfinite(norm) and not discard
            if finite:
                self._move(grads, min(1.0, limit / (norm + 1e-6)) / self.loss_scale)
            self._drop_gradients()
        searching = not discard and self._adjust_loss_scale(finite)
        if finite:
            self.step_count += 1
        return {
            'grad_norm': norm,
            'learning_rate': rate,
            'skipped': float(not finite),
            'scale_search': float(not finite and searching),
        }

    def _move(self, grads: list[Tensor], scale: float) -> None:
        """One optimizer step on gradients times ``scale``; the model takes what its masters became."""
        if isinstance(self.optimizer, AdamW):
            self.optimizer.step(scale=scale)
        else:
            if scale != 1.0:
                for grad in grads:
                    grad.mul_(scale)
            self.optimizer.step()
        written = self.optimizer.copies if isinstance(self.optimizer, AdamW) else {}
        for name, parameter in self.trained.items():
            master = self.masters[name]
            if master is not parameter and master not in written:
                parameter.copy_(master)

    def _gradients(self) -> list[Tensor]:
        """Those of the masters; where a master has none, its 16-bit weight's."""
        pairs = ((master.grad, self.trained[name].grad) for name, master in self.masters.items())
        found = (first if first is not None else second for first, second in pairs)
        return [grad for grad in found if grad is not None]

    def _drop_gradients(self) -> None:
        for name, master in self.masters.items():
            master.grad = self.trained[name].grad = None

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

    def rehearse(self, micro: Callable[[], list[Batch]], objective: Objective) -> None:
        """Take the memory of a step, and leave everything but random generators as it was.

        Args:
            micro: gives the micro-batches; what it computes is part of the rehearsal. None of them is the first batch.
        """
        unchecked, self._unchecked = self._unchecked, False
        if isinstance(self.optimizer, AdamW):
            self.optimizer.prepare()
        self.forward_backward(micro(), objective, dry=True)
        self._drop_gradients()
        if self._in_backward is not None:
            self._in_backward.end([])
        self._unchecked = unchecked

    # ------------------------------------------------------------------------------------------- the first batch
    def check_kernels(self, batch: Batch) -> None:
        """Hold loss and gradients of the first tokens of the run against the plain path; switch off what differs.

        Only the first call does anything.

        Raises:
            NumericalError: they differ and ``kernel_check`` is ``refuse``.
        """
        if not self._unchecked:
            return
        self._unchecked = False
        sample = layout.first_tokens(batch, CHECK_TOKENS).to(self.device)
        found = self._difference(sample, off=[])
        text = f'kernels against the plain path on the first batch: {found.text}'
        if found.small:
            logger.info(text)
        elif self.settings.kernel_check == 'refuse':
            raise NumericalError(f'{text}; --kernels off, or --kernel_check fallback, goes on without what differs')
        elif self.settings.kernel_check == 'warn':
            logger.warning('%s: going on with them, as --kernel_check warn says', text)
        else:
            alone = lambda kept: self._difference(sample, off=[each for each in self.kernels if each is not kept])
            bad = [each for each in self.kernels if not alone(each).small] or self.kernels
            for each in bad:
                each.off()
            self.kernels = [each for each in self.kernels if each not in bad]
            logger.warning('%s: going on without %s', text, ', '.join(each.name for each in bad))

    def _difference(self, sample: Batch, *, off: list[Switch]) -> Difference:
        """Of the kernels not in ``off`` from the plain path: the same gradients are added and taken away again."""
        self.model.eval()
        try:
            with plain(self.kernels):
                expected = self._backward_of_check(sample, 1.0)
                size = self._gradient_norm()
            with plain(off):
                loss = self._backward_of_check(sample, -1.0)
                rest = self._gradient_norm()
        finally:
            self.model.train()
            self._drop_gradients()
        dtype = self.runner.base.dtype if self.settings.autocast is None else torch.bfloat16
        of = lambda difference, whole: difference / whole if whole > 0 and math.isfinite(whole) else 0.0
        return Difference(of(abs(loss - expected), abs(expected)), of(rest, size), dtype)

    def _backward_of_check(self, sample: Batch, sign: float) -> float:
        total = self.runner.trial(sample)
        if total.requires_grad:
            (total * (sign * self.loss_scale)).backward()
        return float(total.detach())

    def _gradient_norm(self) -> float:
        return _norm(self._gradients())

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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where torch's random generators stood: the CPU's, and that of the device."""

    device: torch.device
    cpu: Tensor
    own: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> Drawn:
        own = None if device.type == 'cpu' else torch.get_device_module(device).get_rng_state()
        return cls(device, torch.get_rng_state(), own)

    def again(self) -> None:
        """Draw the same numbers once more."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.get_device_module(self.device).set_rng_state(self.own)


@dataclass(frozen=True, slots=True)
class Difference:
    """Relative differences of loss and gradient between two ways of computing them in ``dtype``."""

    loss: float
    gradient: float
    dtype: torch.dtype

    @property
    def small(self) -> bool:
        """Whether rounding explains it; what is not a number is not small."""
        return self.loss <= LOSS_TOLERANCE[self.dtype] and self.gradient <= GRADIENT_TOLERANCE[self.dtype]

    @property
    def text(self) -> str:
        return (
            f'loss differs by {self.loss:.1e} (allowed {LOSS_TOLERANCE[self.dtype]:.0e}), '
            f'gradient by {self.gradient:.1e} (allowed {GRADIENT_TOLERANCE[self.dtype]:.0e})'
        )


def _finite(loss: Loss) -> bool:
    """Whether the loss, and what is reported as such, are numbers."""
    reported = [loss.metrics['loss'][0]] if 'loss' in loss.metrics else []
    return all(bool(torch.isfinite(each)) for each in (loss.total, *reported))


def _norm(grads: list[Tensor]) -> float:
    """Euclidean norm of all numbers of all gradients, summed in fp32 or better."""
    norms = [torch.linalg.vector_norm(grad, dtype=wide(grad.dtype)) for grad in grads]
    return float(torch.stack(norms).norm()) if norms else 0.0


class Neftune:
    """Noise on embeddings in training: uniform in +-alpha / sqrt(L d), L the tokens of the sequence.

    NEFTune, arXiv 2310.05914, algorithm 1. L is each sequence's own length, not a padded or packed one.
    """

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.segments = Segments(())

    def __call__(self, module: nn.Module, args: tuple, embedded: Tensor) -> Tensor:
        if not module.training:
            return embedded
        each = torch.tensor(self.segments.lengths, device=embedded.device)
        size = self.alpha / (each * embedded.shape[-1]).sqrt().repeat_interleave(each)  # [T]
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * size[:, None].to(embedded.dtype)
