"""One rehearsal of a training run in a process of its own: the true step, on a model with few layers.

``python -m swift.commands.rehearse RESULT`` reads a pickled ``Job`` from standard input and writes what it measured as
JSON. The parent is ``swift plan``; only it knows when a rehearsal is worth its time.
"""

from __future__ import annotations

import gc
import json
import pickle
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from swift.commands.configs import SftConfig
from swift.plan import allocator, meter
from swift.plan.predict import (
    ACTIVATIONS,
    GRADIENTS,
    LOAD,
    LOGITS,
    MASTERS,
    OPTIMIZER,
    PHASES,
    SAVE,
    STEP,
    UPDATE,
    WEIGHTS,
    WORKSPACE,
    Rehearsed,
)
from swift.plan.work import Shape, Stretch, Work


@dataclass(frozen=True, slots=True)
class Job:
    """``cfg`` is that of the run; ``folder`` holds its model with ``layers`` layers."""

    cfg: SftConfig
    folder: Path
    layers: int
    work: Work
    max_length: int


def rehearse(job: Job) -> Rehearsed:
    """Load, take a few steps, save; in the order and with the parts of ``swift sft``."""
    from swift import models
    from swift.commands import sft
    from swift.commands.prepare import Prepared
    from swift.objectives.sft import NextToken
    from swift.train.trainer import Pace

    cfg, device = job.cfg, sft.device(use_cpu=job.cfg.train.use_cpu)
    cfg.model.model = str(job.folder)
    builder = models.load(cfg.model)
    before, peaks = meter.read(device), {}
    with tempfile.TemporaryDirectory(dir=job.folder.parent) as temp:
        for tracker in sft._trackers(cfg, Path(temp)):
            tracker.close()
        with meter.phase(LOAD, peaks, device):
            sft.seed_everything(cfg.train.seed)
            backend = sft._backend(cfg, Prepared(builder, None, job.max_length, None, None), Pace(steps=100))
        steps = _Steps(backend, NextToken() if builder.readout is None else _Reads(), peaks, device)
        worst = job.work.stretches[0]
        for stretch in job.work.stretches:
            steps.take(stretch)
        meter.trim()
        bare = steps.take(tuple(Shape(shape.lengths, 1) for shape in worst))
        meter.trim()
        full = steps.take(worst)
        if cfg.train.save_strategy != 'no':
            with meter.phase(SAVE, peaks, device):
                _save(backend, Path(temp), weights_only=cfg.train.save_only_model)
    gc.collect()
    meter.trim()
    kept = meter.read(device).now - before.now
    owners = _owners(backend, peaks[STEP] - before.now, kept, max(0, full - bare), steps.gradients)
    mapped = meter.read(device).file - before.file
    phases = {name: peaks[name] - before.now for name in PHASES if name in peaks}
    return Rehearsed(job.layers, before.now, phases, owners, mapped, min(steps.seconds))


class _Reads:
    """Stands for the loss of a task that reads sequences: what it computes with is little."""

    needs = frozenset({'scores', 'pooled'})

    def count(self, batch: Any) -> int:
        return len(batch.segments.leaves)

    def __call__(self, outputs: Any, batch: Any) -> Any:
        from swift.core.types import Loss

        return Loss((outputs.scores if outputs.pooled is None else outputs.pooled).abs().sum())


class _Steps:
    """Optimizer steps, with their peaks and times."""

    def __init__(self, backend: Any, objective: Any, peaks: dict[str, int], device: str):
        self.backend, self.objective, self.peaks, self.device = backend, objective, peaks, device
        self.seconds: list[float] = []
        self.gradients = 0  # bytes, after the last backward pass

    def take(self, stretch: Stretch) -> int:
        """One step; returns the peak of its forward and backward pass."""
        from swift.train import oom

        micro, found, started = [_batch(shape, self.backend.model) for shape in stretch], {}, time.perf_counter()
        with meter.phase(STEP, found, self.device):
            self.backend.forward_backward(micro, self.objective)
        self.gradients = oom.of_model(self.backend.model, self.backend.optimizer)[GRADIENTS]
        with meter.phase(UPDATE, self.peaks, self.device):
            self.backend.optim_step()
        self.seconds.append((time.perf_counter() - started) / sum(shape.tokens for shape in stretch))
        self.peaks[STEP] = max(self.peaks.get(STEP, 0), found[STEP])
        return found[STEP]


def _batch(shape: Shape, model: Any) -> Any:
    """Random tokens of that shape, the last of them with loss."""
    import torch

    from swift.core.types import Batch, Segments

    starts = torch.zeros(shape.tokens, dtype=torch.bool)
    starts[list(Segments(shape.lengths).starts[:-1])] = True
    weight = torch.zeros(shape.tokens)
    weight[torch.nonzero(~starts)[:, 0][-shape.targets :]] = 1.0
    return Batch(
        input_ids=torch.randint(0, model.get_input_embeddings().num_embeddings, (shape.tokens,)),
        position_ids=torch.cat([torch.arange(length) for length in shape.lengths]),
        segments=Segments(shape.lengths),
        weight=weight,
    )


def _save(backend: Any, folder: Path, *, weights_only: bool) -> None:
    """What a checkpoint writes."""
    from swift.train import state

    state.refuse_nonfinite(backend.weights())
    backend.export(folder)
    if not weights_only:
        state.save(folder, backend, SimpleNamespace(state_dict=dict), {})  # type: ignore[arg-type]


def _owners(backend: Any, peak: int, kept: int, logits: int, gradients: int) -> dict[str, int]:
    """Who holds the peak of a step: tensors are counted, the rest is what comes and goes, and what stays behind."""
    from swift.train import oom

    weights, masters, _, optimizer = oom.of_model(backend.model, backend.optimizer).values()
    held = weights + masters + optimizer
    workspace = max(0, min(kept - held, peak - held - gradients - logits))
    activations = max(0, peak - held - gradients - logits - workspace)
    return {
        WEIGHTS: weights, MASTERS: masters, GRADIENTS: gradients, OPTIMIZER: optimizer,
        ACTIVATIONS: activations, LOGITS: logits, WORKSPACE: workspace,
    }  # fmt: skip


def main(result: str) -> None:
    """Read the job, rehearse, write the result."""
    allocator.steady()
    job: Job = pickle.load(sys.stdin.buffer)
    Path(result).write_text(json.dumps(asdict(rehearse(job))), encoding='utf-8')


if __name__ == '__main__':
    main(sys.argv[1])
