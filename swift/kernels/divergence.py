"""How far a model's next-token distribution is from a teacher's, without keeping the logits of either.

Both distributions of a row are made from hidden states and heads, a chunk of rows at a time, compared in fp32 (fp64 for
fp64 inputs), and turned into the gradient where the student's logits lie.

Shapes: ``S`` supervised rows, ``C`` rows of a chunk, ``V`` vocabulary, ``d`` width, ``k`` tokens that a teacher names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swift.kernels import compiled, device
from swift.kernels.logprobs import KEEP, Head, HeadSums, Scores, chunks, linear_logprobs, target_logprobs, wide

AT_ONCE = {'cpu': 2**19, 'cuda': 2**26}
"""Logits that are compared at a time: on a CPU what its caches hold, which is 1.5 times as fast as whole chunks."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of S next tokens: hidden states [S, d] and the head they go through, or logits [S, V]."""

    rows: Tensor
    head: Head | None = None

    @property
    def vocabulary(self) -> int:
        return self.rows.shape[1] if self.head is None else len(self.head.weight)

    def logits(self, part: slice, size: int) -> Tensor:
        """[C, size]: those of the first ``size`` tokens of the vocabulary, in memory of their own."""
        if self.head is None:
            return self.rows[part, :size].clone()
        return self.head.first(size).logits(self.rows[part])

    def scores(self, targets: Tensor) -> Scores:
        """Log-probabilities of ``targets`` int64 [S] and what goes with them."""
        if self.head is None:
            return target_logprobs(self.rows, targets)
        return linear_logprobs(self.rows, self.head, targets)


@dataclass(frozen=True, slots=True)
class Named:
    """The k most likely tokens of S rows, by a teacher that tells no more: ``ids`` and log-probabilities, [S, k]."""

    ids: Tensor
    logps: Tensor


@dataclass(frozen=True, slots=True)
class Divergence:
    """Generalised Jensen-Shannon divergence of a teacher's distribution q and a student's p.

    ``D = b KL(q || m) + (1 - b) KL(p || m)``, ``m = b q + (1 - b) p``, and the limits that give it its use at the ends:
    ``KL(q || p)`` for b = 0, forward, ``KL(p || q)`` for b = 1, reverse.  arXiv 2306.13649, eq. 1.
    Logits of both are divided by ``temperature``.

    With ``top`` (and whenever the teacher names tokens only) both are renormalised over the teacher's ``top`` most
    likely tokens, as in ms-swift: cheap to send, and blind to what the student gives to other tokens.
    """

    beta: float = 0.5
    temperature: float = 1.0
    top: int | None = None

    def __call__(self, student: Predictions, teacher: Predictions | Named) -> Tensor:
        """[S], fp32 or better, differentiable in the student's rows and head.

        Vocabularies of different sizes are compared over the tokens that both have: what is beyond is padding of the
        larger embedding. Same ids must mean the same tokens; whoever loads the models sees to that.
        """
        rows, head = student.rows, student.head
        if head is None:
            return _Divergence.apply(rows, None, None, None, teacher, self)
        rows, head = head.under_autocast(rows)
        return _Divergence.apply(rows, head.weight, head.bias, head, teacher, self)

    # ------------------------------------------------------------------------------------------------ rows of logits
    def compare_(self, z: Tensor, teacher: Predictions | Named, part: slice, *, gradient: bool) -> Tensor:
        """Divergence [C] of the student's logits z [C, V], which become its gradient if ``gradient``."""
        if isinstance(teacher, Named):
            return self._named_(z, teacher.ids[part], teacher.logps[part], gradient=gradient)
        size = min(z.shape[1], teacher.vocabulary)
        t = teacher.logits(part, size)
        if self.top is not None:
            named, ids = t.topk(min(self.top, size))
            return self._named_(z, ids, named, gradient=gradient)
        if gradient:
            z[:, size:] = 0
        return self._whole_(z[:, :size], t, gradient=gradient)

    def _whole_(self, z: Tensor, t: Tensor, *, gradient: bool) -> Tensor:
        """By a C++ kernel where there is one, else in torch's operations: see ``of_logits``."""
        if z.device.type == 'cpu' and device.fused(z, t) and z.is_contiguous() and t.is_contiguous():
            made = torch.empty(len(z))
            run = compiled.function(f'divergence_rows_{"bf16" if z.dtype == torch.bfloat16 else "f32"}', 'ppp ii ff i')
            run(z, t, made, *z.shape, self.beta, 1 / self.temperature, int(gradient))
            return made
        made = torch.empty(len(z), dtype=wide(z.dtype), device=z.device)
        size = max(1, AT_ONCE.get(z.device.type, 2**26) // max(1, z.shape[1]))
        for at in range(0, len(z), size):
            rows = slice(at, at + size)
            made[rows], slope = self.of_logits(z[rows], t[rows])
            if gradient:
                z[rows] = slope.to(z.dtype)
        return made

    def _named_(self, z: Tensor, ids: Tensor, t: Tensor, *, gradient: bool) -> Tensor:
        made, slope = self.of_logits(z.gather(1, ids), t)
        if gradient:
            z.zero_().scatter_(1, ids, slope.to(z.dtype))
        return made

    def of_logits(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """D [C] and dD/dz [C, V] of the student's logits z and the teacher's t, both [C, V].

        With ``s = z / temperature``: ``dD/ds = p - q`` for b = 0, ``p (log p/q - D)`` for b = 1, else
        ``(1 - b) p (log p/m - KL(p || m))``, since the derivative of D by p_v is ``(1 - b) log p_v/m_v``.
        """
        log_p, log_q = (torch.log_softmax(x.to(wide(z.dtype)) / self.temperature, -1) for x in (z, t))
        p, q = log_p.exp(), log_q.exp()
        if self.beta == 0:
            found, slope = _kl(q, log_q, log_p)[1], p - q
        elif self.beta == 1:
            each, found = _kl(p, log_p, log_q)
            slope = each - p * found[:, None]
        else:
            log_m = torch.log(self.beta * q + (1 - self.beta) * p)
            each, student = _kl(p, log_p, log_m)
            found = self.beta * _kl(q, log_q, log_m)[1] + (1 - self.beta) * student
            slope = (1 - self.beta) * (each - p * student[:, None])
        return found, slope / self.temperature


def plain(student: Tensor, teacher: Tensor, how: Divergence) -> Tensor:
    """The same in torch's differentiable operations, from whole logits [S, V] of both: the twin."""
    size = min(student.shape[1], teacher.shape[1])
    z, t = student[:, :size].to(wide(student.dtype)), teacher[:, :size].to(wide(student.dtype))
    if how.top is not None:
        t, ids = t.topk(min(how.top, size))
        z = z.gather(1, ids)
    log_p, log_q = (torch.log_softmax(x / how.temperature, -1) for x in (z, t))
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
    if how.beta in (0, 1):
        return kl(log_p, log_q) if how.beta else kl(log_q, log_p)
    b = torch.tensor(how.beta, dtype=z.dtype)
    log_m = torch.logaddexp(log_q + b.log(), log_p + (1 - b).log())
    return b * kl(log_q, log_m) + (1 - b) * kl(log_p, log_m)


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """``p log p/q`` [C, V], 0 where p is, and its sum over the vocabulary [C]."""
    each = torch.where(p == 0, 0, p * (log_p - log_q))
    return each, each.sum(-1)


class _Divergence(torch.autograd.Function):
    """D of each row. As in ``linear_logprobs``, a row's pull scales its row of the gradient only: a frozen head has the
    gradient of its input ready in the forward pass, a trainable one keeps ``dD/dz`` or computes it again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        head: Head | None,
        teacher: Predictions | Named,
        how: Divergence,
    ) -> Tensor:
        student = Predictions(rows, head)
        ctx.head, ctx.teacher, ctx.how = head, teacher, how
        ctx.frozen = weight is None or not any(x is not None and x.requires_grad for x in (weight, bias))
        ctx.whole = not ctx.frozen and len(rows) * student.vocabulary * rows.element_size() <= KEEP
        gradient = rows.requires_grad and (ctx.frozen or ctx.whole)
        made, kept = [], []
        for part in chunks(rows, student.vocabulary, whole=ctx.whole):
            found, z = _compare(student, teacher, how, part, gradient=gradient)
            made.append(found)
            if gradient:
                kept.append(z @ weight if ctx.frozen and weight is not None else z)
        ctx.save_for_backward(rows, weight, bias, *kept)
        return torch.cat(made)

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> Any:
        rows, weight, bias, *kept = ctx.saved_tensors
        student, by_rows = Predictions(rows, ctx.head), torch.empty_like(rows)
        sums = None if ctx.frozen else HeadSums(weight, bias)
        for i, part in enumerate(chunks(rows, student.vocabulary, whole=ctx.whole)):
            push = pull[part, None]
            if sums is None:
                by_rows[part] = kept[i] * push
                continue
            z = kept[i] if kept else _compare(student, ctx.teacher, ctx.how, part, gradient=True)[1]
            sums.add(z, rows[part], push)
            by_rows[part] = (z @ weight) * push
        return by_rows, *((None, None) if sums is None else sums.result()), None, None, None


def _compare(
    student: Predictions, teacher: Predictions | Named, how: Divergence, part: slice, *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """D [C] of some rows, and its gradient by W h + bias [C, V] if ``gradient``."""
    z = student.logits(part, student.vocabulary)
    edge = None if student.head is None or not gradient else student.head.edge(z)
    found = how.compare_(z, teacher, part, gradient=gradient)
    return found, z if edge is None else z.mul_(edge)
