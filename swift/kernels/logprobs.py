"""Log-probabilities of targets: from logits, or from hidden states and the output head without keeping any logits.

All sums are fp32 (fp64 for fp64 inputs). Rows of logits are turned into their gradient where they lie, so a forward and
a backward pass over one row read and write it once.

Shapes: ``S`` supervised rows, ``V`` vocabulary, ``d`` width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swift.kernels import compiled, device

ROWS = 128
"""Rows that the plain twin reduces at a time: ROWS x V fp32 numbers of workspace."""
CHUNK = {'cpu': 2**25, 'cuda': 2**28}
"""Logits that exist at a time where they are computed in chunks."""
KEEP = 2**28
"""Bytes of logits that are kept from forward to backward for a trainable head, to save computing them twice."""


class Scores(NamedTuple):
    """What is known of S targets. ``logps`` and ``lse`` are differentiable; float32 (64 for float64 inputs), [S]."""

    logps: Tensor  # z_target - lse
    lse: Tensor  # log sum_v exp(z_v)
    entropy: Tensor  # of the distribution over the vocabulary
    correct: Tensor  # bool: no other token is more likely


# ---------------------------------------------------------------------------------------------------- rows of logits
torch.library.define('swift::logprob_rows', '(Tensor(a!) z, Tensor targets, bool gradient) -> Tensor[]')


@torch.library.register_fake('swift::logprob_rows')
def _(z: Tensor, targets: Tensor, gradient: bool) -> list[Tensor]:
    made = z.new_empty(len(targets), dtype=wide(z.dtype))
    return [made, torch.empty_like(made), torch.empty_like(made), made.new_empty(len(targets), dtype=torch.bool)]


@torch.library.impl('swift::logprob_rows', 'CompositeExplicitAutograd')
def _rows(z: Tensor, targets: Tensor, gradient: bool) -> list[Tensor]:
    """logps, lse, entropy and correct of each row of ``z`` [S, V].

    With ``gradient`` z becomes d logps / d z = onehot(target) - softmax(z), else it is left alone.
    """
    if not device.fused(z) or not z.is_contiguous():
        return plain_rows(z, targets, gradient=gradient)
    logps, lse, entropy = (z.new_empty(len(z), dtype=torch.float32) for _ in range(3))
    correct = torch.empty(len(z), dtype=torch.bool, device=z.device)
    if z.device.type == 'cuda':
        from swift.kernels import triton_rows

        with torch.cuda.device_of(z):
            triton_rows.logprob_rows(z, targets, logps, lse, entropy, correct, gradient)
    else:
        run = compiled.function(f'logprob_rows_{"bf16" if z.dtype == torch.bfloat16 else "f32"}', 'pppppp iii')
        run(z, targets, logps, lse, entropy, correct, *z.shape, int(gradient))
    return [logps, lse, entropy, correct]


def plain_rows(z: Tensor, targets: Tensor, *, gradient: bool) -> list[Tensor]:
    """The same in torch's operations."""
    made = z.new_empty(3, len(z), dtype=wide(z.dtype))
    correct = torch.empty(len(z), dtype=torch.bool, device=z.device)
    for at in range(0, len(z), ROWS):
        part = slice(at, at + ROWS)
        rows, ids = z[part].to(wide(z.dtype)), targets[part, None]
        target, lse = rows.gather(1, ids)[:, 0], torch.logsumexp(rows, -1)
        correct[part] = rows.argmax(-1) == ids[:, 0]
        p = (rows - lse[:, None]).exp_()
        made[0, part], made[1, part] = target - lse, lse
        made[2, part] = lse - torch.where(p > 0, p * rows, 0).sum(-1)
        if gradient:
            z[part] = p.neg_().scatter_add_(1, ids, torch.ones_like(target)[:, None])
    return [*made.unbind(), correct]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Logprobs(torch.autograd.Function):
    """``d logps / dz = onehot - p``, ``d lse / dz = p``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        z = logits.clone(memory_format=torch.contiguous_format)
        scores = torch.ops.swift.logprob_rows(z, targets, logits.requires_grad)
        ctx.save_for_backward(z, targets)
        ctx.mark_non_differentiable(*scores[2:])
        return tuple(scores)

    @staticmethod
    def backward(ctx: Any, by_logp: Tensor, by_lse: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        slope, targets = ctx.saved_tensors  # onehot - p
        out = slope * (by_logp - by_lse)[:, None].to(slope.dtype)
        return out.scatter_add_(1, targets[:, None], by_lse[:, None].to(out.dtype)), None


def target_logprobs(logits: Tensor, targets: Tensor) -> Scores:
    """Scores of ``targets`` int64 [S] under ``logits`` [S, V]."""
    return Scores(*_Logprobs.apply(logits, targets))


# -------------------------------------------------------------------------------------------------------------- head
@dataclass(frozen=True, slots=True)
class Head:
    """How hidden states become logits: ``z = cap tanh(u / cap)``, ``u = scale (W h + bias)``."""

    weight: Tensor  # [V, d]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """[S, d] -> [S, V]"""
        z = torch.nn.functional.linear(hidden, self.weight, self.bias)
        z = z if self.scale == 1.0 else z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def edge(self, z: Tensor) -> Tensor | None:
        """``f = dz / d(W h + bias)`` of logits z; None: 1 everywhere."""
        if self.cap is not None:
            return (1 - (z / self.cap).square_()).mul_(self.scale)
        return None if self.scale == 1.0 else torch.full_like(z[:1, :1], self.scale)

    def first(self, size: int) -> Head:
        """The head of the first ``size`` tokens of the vocabulary."""
        return replace(self, weight=self.weight[:size], bias=None if self.bias is None else self.bias[:size])

    def under_autocast(self, hidden: Tensor) -> tuple[Tensor, Head]:
        """Hidden states and head in the type that autocast asks for, where it does."""
        if not torch.is_autocast_enabled(hidden.device.type):
            return hidden, self
        dtype = torch.get_autocast_dtype(hidden.device.type)
        bias = None if self.bias is None else self.bias.to(dtype)
        return hidden.to(dtype), replace(self, weight=self.weight.to(dtype), bias=bias)


class _LinearLogprobs(torch.autograd.Function):
    """Scores from hidden states; see ``linear_logprobs``.

    With ``G = (onehot - p) f``, ``f = scale (1 - (z / cap)^2)``, and for each row ``a = d/d logp - d/d lse`` and
    ``b = d/d lse``: ``d/dh = a (G W) + b f_t W_t``,  ``d/dW = G^T (a h) + sum of b f_t h at row t``; bias: h = 1.
    A row's pull scales its row of ``G W`` only, so a frozen head has its gradient ready in the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Any:
        ctx.head, ctx.frozen = head, not (weight.requires_grad or (bias is not None and bias.requires_grad))
        ctx.whole = not ctx.frozen and len(hidden) * len(weight) * hidden.element_size() <= KEEP
        made, edges, kept = [], [], []
        for part in chunks(hidden, len(weight), whole=ctx.whole):
            z = head.logits(hidden[part])
            gradient = hidden.requires_grad and (ctx.frozen or ctx.whole)
            scores, edge = _slope_(z, targets[part], head, gradient=gradient)
            made.append(scores)
            edges.append(edge)
            if gradient:
                kept.append(z @ weight if ctx.frozen else z)
        scores = [torch.cat(each) for each in zip(*made, strict=True)]
        ctx.parts = len(kept)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(edges), *kept)
        ctx.mark_non_differentiable(*scores[2:])
        ctx.set_materialize_grads(False)
        return tuple(scores)

    @staticmethod
    def backward(ctx: Any, by_logp: Tensor | None, by_lse: Tensor | None, *_: Tensor) -> Any:
        hidden, weight, bias, targets, edges, *kept = ctx.saved_tensors
        none = torch.zeros_like(edges)
        a, b = (none if by_logp is None else by_logp) - (none if by_lse is None else by_lse), by_lse
        by_hidden = torch.empty_like(hidden)
        sums = HeadSums(weight, bias)
        for i, part in enumerate(chunks(hidden, len(weight), whole=ctx.whole)):
            h, ids, pull = hidden[part], targets[part], a[part, None]
            if ctx.frozen:
                slope = kept[i]  # G W
            else:
                z = kept[i] if kept else ctx.head.logits(h)
                if not kept:
                    _slope_(z, ids, ctx.head, gradient=True)
                sums.add(z, h, pull)
                slope = z @ weight
            slope = slope * pull
            if b is not None:
                push = (b[part] * edges[part])[:, None]
                slope += push * weight[ids]
                sums.add_at(ids, h, push)
            by_hidden[part] = slope
        return by_hidden, *sums.result(), None, None


class HeadSums:
    """Gradients of a head's weight [V, d] and bias [V], chunk by chunk; None for what is frozen."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._bias = weight, bias
        self._made: dict[str, Tensor] = {}

    def add(self, z: Tensor, h: Tensor, pull: Tensor) -> None:
        """Rows of G [C, V] with their hidden states [C, d] and pulls [C, 1]."""
        if self._weight.requires_grad:
            self._grow('weight', z.t() @ (h * pull).to(h.dtype))
        if self._bias is not None and self._bias.requires_grad:
            self._grow('bias', (z.t() @ pull.to(z.dtype))[:, 0])

    def _grow(self, name: str, part: Tensor) -> None:
        made = self._made.get(name)
        self._made[name] = part if made is None else made.to(wide(part.dtype)).add_(part)

    def add_at(self, ids: Tensor, h: Tensor, push: Tensor) -> None:
        """What goes to the target rows [C] alone."""
        if 'weight' in self._made:
            self._made['weight'].index_add_(0, ids, (h * push).to(self._made['weight'].dtype))
        if 'bias' in self._made:
            self._made['bias'].index_add_(0, ids, push[:, 0].to(self._made['bias'].dtype))

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        given = (('weight', self._weight), ('bias', self._bias))
        made = [self._made[name].to(of.dtype) if of is not None and name in self._made else None for name, of in given]
        return made[0], made[1]


def _slope_(z: Tensor, targets: Tensor, head: Head, *, gradient: bool) -> tuple[list[Tensor], Tensor]:
    """Scores of z [C, V], which becomes G if ``gradient``; and f at the targets [C]."""
    edge = torch.full((len(z),), head.scale, dtype=wide(z.dtype), device=z.device)
    inner = None if head.cap is None else 1 - (z / head.cap).square_()
    if inner is not None:
        edge *= inner.gather(1, targets[:, None])[:, 0]
    scores = torch.ops.swift.logprob_rows(z, targets, gradient)
    if gradient and inner is not None:
        z *= inner
    if gradient and head.scale != 1.0:
        z *= head.scale
    return scores, edge


def chunks(rows: Tensor, vocabulary: int, *, whole: bool) -> list[slice]:
    """Rows whose logits exist at a time: a multiple of 64 that keeps matrix units busy."""
    size = len(rows) if whole else max(64, CHUNK.get(rows.device.type, 2**28) // vocabulary // 64 * 64)
    return [slice(at, at + size) for at in range(0, len(rows), max(1, size))] or [slice(0, 0)]


def linear_logprobs(hidden: Tensor, head: Head, targets: Tensor) -> Scores:
    """Scores of ``targets`` int64 [S] from the last hidden states [S, d], without keeping [S, V] logits.

    A frozen head computes the gradient of ``hidden`` in the forward pass; a trainable one keeps its logits up to
    ``KEEP`` bytes and computes larger ones again. The idea of trading logits for gradients in place is that of
    Liger-Kernel (arXiv 2410.10989, section 3.2) and Cut Cross-Entropy (arXiv 2411.09009); here rows keep their own
    pull, so any objective of log-probabilities can use it.
    """
    hidden, head = head.under_autocast(hidden)
    return Scores(*_LinearLogprobs.apply(hidden, head.weight, head.bias, targets, head))
