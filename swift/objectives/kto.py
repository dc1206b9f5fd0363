"""KTO: answers that somebody wanted gain on the reference, answers that somebody did not want lose; no pairs.

Goes in: a batch of rows, each a segment of the prompt and one of the answer, with a label. Comes out: the sum of their
losses. What counts as a gain is measured against how far the policy has moved as a whole, which is estimated over the
optimizer step.

Shapes: ``N`` sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swift.core.errors import ConfigError
from swift.core.types import Batch, Forward, Loss, Outputs, Segments
from swift.objectives.args import ObjectiveArgs
from swift.objectives.pairs import Metrics, total
from swift.objectives.stepwide import Reference


@dataclass(kw_only=True)
class Kto:
    """w_D s(beta (kl - log u)) for answers that were wanted, w_U s(beta (log u - kl)) for others; their mean.

    u = pi(y|x) / pi_ref(y|x).  KTO, arXiv 2402.01306, eq. 7, less a constant. kl = max(0, mean over the rows of
    log pi(y'|x) - log pi_ref(y'|x)), without gradient, where y' is the answer of the row before in the optimizer step.
    Others look for y' within a micro-batch, so that their loss depends on its size. Where a step is a single row there
    is no y', and kl is 0.

    ``anchored`` False takes kl = 0: apo_zero_unpaired, APO, arXiv 2408.06266, eq. 7, without pairs.
    """

    anchored: bool = True
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    needs = frozenset({'logps', 'ref_logps'})
    repeats = False

    def count(self, batch: Batch) -> int:
        return len(batch.segments.leaves)

    def prepare(self, step: list[Batch], forward: Forward, reference: Reference | None) -> list[dict[str, Tensor]]:
        """Streams [N]: ``kl`` of the step, and how often a row's reward counts in the margin of the step."""
        kl = _divergence(mismatched(step), forward, reference) if self.anchored else torch.zeros(())
        flags = [wanted(batch) for batch in step]
        good, rows = sum(int(part.sum()) for part in flags), sum(len(part) for part in flags)
        # the mean of wanted answers less that of others, as a mean over all rows
        share = (rows / good, rows / (good - rows)) if 0 < good < rows else (0.0, 0.0)
        return [{'kl': kl.expand(len(part)), 'margin_share': _choose(part, *share)} for part in flags]

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        policy = batch.per_sequence(outputs.logps)  # [N]
        log_u = policy - batch.per_sequence(batch.streams['ref_logps'])
        kl, share = batch.streams['kl'], batch.streams['margin_share']
        flag = wanted(batch).to(policy)
        losses = _choose(flag, self.desirable_weight, self.undesirable_weight) * torch.sigmoid(
            _choose(flag, -self.beta, self.beta) * (log_u - kl)
        )
        rewards = self.beta * log_u.detach()
        return Loss(
            losses.sum(),
            {
                'loss': total(losses),
                'kl': total(kl),
                **_halves('rewards', rewards, flag),
                'rewards/margins': ((share * rewards).sum(), torch.count_nonzero(share)),
                **_halves('logps', policy.detach(), flag),
            },
        )


def wanted(batch: Batch) -> Tensor:
    """1 for an answer that was wanted and 0 for another: [N]."""
    return torch.tensor([float(label > 0.5) for (label,) in batch.labels], dtype=batch.weight.dtype)


def mismatched(step: list[Batch]) -> list[Batch]:
    """The prompts of each micro-batch with the answers of the rows before theirs in the step, the first with the last.

    Nothing if the step has a single row.
    """
    rows = sorted(
        (place, b, leaf)
        for b, batch in enumerate(step)
        for place, leaf in zip(batch.places, batch.segments.leaves, strict=True)
    )
    if len(rows) < 2:
        return []
    before = {(b, leaf): rows[i - 1][1:] for i, (_, b, leaf) in enumerate(rows)}
    made = []
    for b, batch in enumerate(step):
        parts = []
        for leaf in batch.segments.leaves:
            other, answer = before[b, leaf]
            parts.append((_tokens(batch, batch.segments.path(leaf)[:-1]), _tokens(step[other], (answer,))))
        made.append(_laid(parts))
    return made


def _divergence(step: list[Batch], forward: Forward, reference: Reference | None) -> Tensor:
    """max(0, mean log u) over the sequences of these batches, 0-dim; 0 if there are none."""
    if not step:
        return torch.zeros(())
    if reference is None:
        raise ConfigError(
            '--rlhf_type kto asks the reference model about answers of other rows, which precomputed log-probabilities '
            'do not hold: compute them as training goes, or take --loss_type apo_zero_unpaired'
        )
    pairs = zip(step, forward(step), reference(step), strict=True)
    return torch.cat([batch.per_sequence(out.logps - ref) for batch, out, ref in pairs]).mean().clamp(min=0)


def _halves(name: str, values: Tensor, flag: Tensor) -> Metrics:
    """The metric of answers that were wanted and of others, without asking a device how many there are."""
    halves = (('chosen', flag), ('rejected', 1 - flag))
    return {f'{name}/{half}': ((values * flag).sum(), flag.sum()) for half, flag in halves}


def _choose(flag: Tensor, yes: float, no: float) -> Tensor:
    """``yes`` where the flag is 1 and ``no`` where it is 0, in its precision."""
    return flag * yes + (1 - flag) * no


def _tokens(batch: Batch, segments: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ids and weights of these segments, one after the other."""
    assert segments, 'the prompt of a judged answer must be a segment of its own'
    starts = batch.segments.starts
    at = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in segments])
    return batch.input_ids[at], batch.weight[at]


def _laid(parts: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]) -> Batch:
    """(prompt, answer) of each sequence, end to end."""
    lengths = tuple(len(prompt[0]) + len(answer[0]) for prompt, answer in parts)
    return Batch(
        input_ids=torch.cat([ids for part in parts for ids, _ in part]),
        position_ids=torch.cat([torch.arange(length) for length in lengths]),
        segments=Segments(lengths),
        weight=torch.cat([weight for part in parts for _, weight in part]),
    )


def from_args(args: ObjectiveArgs) -> Kto:
    """The objective of ``--rlhf_type kto``."""
    return Kto(
        anchored='kto' in args.losses,
        beta=args.strength,
        desirable_weight=args.desirable_weight,
        undesirable_weight=args.undesirable_weight,
    )
