"""The training step on one device: CPU, CUDA or Apple MPS.

Trainable weights of 16 bits have fp32 masters: gradients of every micro-batch are added up in fp32, the optimizer
moves the masters, the model holds their rounding. An optimizer that rounds stochastically moves the weights themselves.
Packs run in one forward pass through packed attention; a model that cannot pack runs one sequence at a time, with the
same losses and gradients.

Shapes: ``T`` tokens, ``N`` sequences, ``S`` supervised targets, ``V`` vocabulary.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from swift.core.errors import ConfigError, NumericalError
from swift.core.types import Batch, Builder, Objective, Outputs, Segments
from swift.kernels import attention, head, layers
from swift.kernels.adamw import AdamW
from swift.kernels.head import Tap
from swift.kernels.logprobs import Scores, linear_logprobs, target_logprobs, wide
from swift.kernels.switch import KERNELS, Switch, attach, attached, plain

logger = logging.getLogger(__name__)

HALF = (torch.bfloat16, torch.float16)
KernelCheck = Literal['fallback', 'warn', 'refuse', 'off']
LOSS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest relative difference of the loss of the first batch between the kernels and the plain path."""
GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
"""The same for the norm of the difference of all gradients. Gradients in bf16 are 0.04 from those in fp32 whatever
computes them (SmolLM2-135M, 256 tokens), and as far from each other; a wrong one is off by about 1."""
CHECK_TOKENS = 256
"""Tokens of the first batch that are compared."""
ROUND = 64
"""Numbers of rows that products see are multiples of it: libraries keep what they prepared for each new number."""
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
    kernels: frozenset[str] = frozenset(KERNELS)
    kernel_check: KernelCheck = 'fallback'  # when the first batch differs from the plain path
    tf32: bool | None = None
    masters: bool = True  # keep fp32 copies of 16-bit weights


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
            name: Parameter(p.detach().float()) if settings.masters and p.dtype in HALF else p
            for name, p in self.trained.items()
        }
        self.optimizer = optimizer(self.model, self.masters)
        if isinstance(self.optimizer, AdamW):
            copied = ((self.masters[name], p) for name, p in self.trained.items() if self.masters[name] is not p)
            self.optimizer.copies = {master: p.detach() for master, p in copied if p.dtype == torch.bfloat16}
        self._collect_gradients()

    # ------------------------------------------------------------------------------------------------- building
    def _prepare_model(self) -> None:
        unwrap: Any = getattr(self.model, 'get_base_model', None)  # a peft model has one
        base = cast(PreTrainedModel, unwrap() if unwrap else self.model)
        base.config.use_cache = False
        self._slices_logits = 'logits_to_keep' in inspect.signature(base.forward).parameters
        self._base = base
        self.unpacked_reason = self._pack_sequences(base)
        self._tap: Tap | None = None
        if 'head' in self.settings.kernels and self._slices_logits:
            self._tap_head(base)
        for path, why in layers.install(base, wanted=self.settings.kernels).left.items():
            logger.debug('%s keeps its own forward: %s', path, why)
        self.kernels = attached(self.model)
        self._unchecked = bool(self.kernels) and self.settings.kernel_check != 'off'
        if self.settings.gradient_checkpointing:
            base.gradient_checkpointing_enable({'use_reentrant': False})
        if self._noise is not None:
            base.get_input_embeddings().register_forward_hook(self._noise)
        self.model.train()

    def _pack_sequences(self, base: PreTrainedModel) -> str | None:
        """Let sequences share a forward pass. Returns None, or why they do not."""
        if self.settings.attn_impl == 'eager':
            return f'--attn_impl {self.settings.attn_impl} asks for the plain path'
        if 'attention' not in self.settings.kernels:
            return '--kernels leaves packed attention out'
        before = base.config._attn_implementation or 'eager'
        if reason := attention.install(base, self.settings.max_length):
            return reason

        def on() -> None:
            base.set_attn_implementation(attention.NAME)
            self.unpacked_reason = None

        def off() -> None:
            base.set_attn_implementation(before)
            self.unpacked_reason = 'packed attention is switched off'

        attach(base, Switch('attention', on, off))
        return None

    def _tap_head(self, base: PreTrainedModel) -> None:
        found = head.tap(base)
        if isinstance(found, str):
            logger.info('logits are kept whole: %s', found)
            return
        attach(base, Switch('head', lambda: setattr(self, '_tap', found), lambda: setattr(self, '_tap', None)))

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
            self._check_kernels(micro[0])
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
        grads = [p.grad for p in self.masters.values() if p.grad is not None]
        norm = _norm(grads) / self.loss_scale
        limit = self.settings.max_grad_norm or math.inf
        finite = math.isfinite(norm) and not discard
        rate = self._set_rates()
        if finite:
            self._move(grads, min(1.0, limit / (norm + 1e-6)) / self.loss_scale)
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

    # ------------------------------------------------------------------------------------------------- forward
    def _outputs(self, batch: Batch) -> Outputs:
        if self.unpacked_reason is None:
            size = len(batch.input_ids)
            scores = self._pack(_rounded(batch) if self.device.type == 'cpu' else batch)
            return Outputs(*(each[:size] for each in scores))
        parts = [self._pack(each) for each in _one_by_one(batch)]
        return Outputs(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _pack(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probs [T] and hits [T] of one row of tokens; zeros where the weight is 0."""
        targets = torch.nonzero(batch.weight)[:, 0]  # [S]
        logps = torch.zeros(len(batch.weight), dtype=wide(self._base.dtype), device=batch.weight.device)
        correct = torch.zeros(len(batch.weight), dtype=torch.bool, device=batch.weight.device)
        if len(targets) == 0:
            return logps, correct
        scores = self._scores(batch, targets)
        return logps.index_put((targets,), scores.logps), correct.index_put((targets,), scores.correct)

    def _scores(self, batch: Batch, targets: Tensor) -> Scores:
        """What is known of the targets, int64 [S] positions in the batch."""
        ids = batch.input_ids
        if self._noise is not None:
            self._noise.segments = batch.segments
        inputs: dict[str, Any] = {'input_ids': ids[None], 'use_cache': False}
        if self.unpacked_reason is None:
            inputs |= {'position_ids': batch.position_ids[None], 'segments': batch.segments}
        if self._slices_logits:
            inputs['logits_to_keep'] = targets - 1
        with self._autocast():
            if self._tap is None:
                logits = self.model(**inputs).logits[0]  # [S, V], or [T, V]
                return target_logprobs(logits if self._slices_logits else logits[targets - 1], ids[targets])
            spare = -len(targets) % ROUND
            rows = torch.cat([targets, targets.new_full((spare,), int(targets[-1]))]) if spare else targets
            inputs['logits_to_keep'] = rows - 1
            with self._tap.open() as tap:
                self.model(**inputs)
                hidden = cast(Tensor, tap.hidden)[0]  # [S, d]
            scores = linear_logprobs(hidden, self._tap.head, ids[rows])
            return Scores(*(each[: len(targets)] for each in scores))

    def _autocast(self) -> AbstractContextManager:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.autocast))

    # ------------------------------------------------------------------------------------------- the first batch
    def _check_kernels(self, batch: Batch) -> None:
        """Hold loss and gradients of the first tokens of the run against the plain path; switch off what differs.

        Raises:
            NumericalError: they differ and ``kernel_check`` is ``refuse``.
        """
        self._unchecked = False
        sample = _first_tokens(batch, CHECK_TOKENS).to(self.device)
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
            for parameter in self.masters.values():
                parameter.grad = None
        dtype = self._base.dtype if self.settings.autocast is None else torch.bfloat16
        of = lambda difference, whole: difference / whole if whole > 0 and math.isfinite(whole) else 0.0
        return Difference(of(abs(loss - expected), abs(expected)), of(rest, size), dtype)

    def _backward_of_check(self, sample: Batch, sign: float) -> float:
        total = -self._outputs(sample).logps.mean()
        if total.requires_grad:
            (total * (sign * self.loss_scale)).backward()
        return float(total.detach())

    def _gradient_norm(self) -> float:
        return _norm([p.grad for p in self.masters.values() if p.grad is not None])

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


def _norm(grads: list[Tensor]) -> float:
    """Euclidean norm of all numbers of all gradients, summed in fp32 or better."""
    norms = [torch.linalg.vector_norm(grad, dtype=wide(grad.dtype)) for grad in grads]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _rounded(batch: Batch) -> Batch:
    """The batch and a last sequence of no weight that fills it to a multiple of ROUND tokens."""
    spare = -len(batch.input_ids) % ROUND
    if not spare:
        return batch
    return replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, spare)),
        position_ids=torch.cat([batch.position_ids, torch.arange(spare)]),
        weight=F.pad(batch.weight, (0, spare)),
        segments=batch.segments.followed_by(spare),
    )


def _one_by_one(batch: Batch) -> list[Batch]:
    """Each sequence as a batch of its own."""
    parts = (x.split(batch.segments.lengths) for x in (batch.input_ids, batch.position_ids, batch.weight))
    return [Batch(ids, positions, Segments((len(ids),)), weight) for ids, positions, weight in zip(*parts, strict=True)]


def _first_tokens(batch: Batch, count: int) -> Batch:
    """The first ``count`` tokens, every one but the first of its segment a target: a sequence may be cut anywhere."""
    lengths, left = [], min(count, len(batch.input_ids))
    for length in batch.segments.lengths:
        if left:
            lengths.append(min(length, left))
            left -= lengths[-1]
    segments = Segments(tuple(lengths), batch.segments.prefix_of[: len(lengths)])
    weight = torch.ones(segments.total)
    weight[list(segments.starts[:-1])] = 0
    return Batch(batch.input_ids[: segments.total], batch.position_ids[: segments.total], segments, weight)


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
