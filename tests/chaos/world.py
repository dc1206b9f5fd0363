"""A whole training of the tiny model in one call, from parts a command would put together: for breaking it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from swift.core import files
from swift.core.types import Batch, Builder, ModelInfo, Origin, Segments
from swift.objectives import OBJECTIVES
from swift.parallel.one_device import TorchBackend
from swift.parallel.settings import Settings
from swift.train import optim, resume
from swift.train.signals import Signals
from swift.train.track import Journal
from swift.train.trainer import Pace, Progress, Trainer
from swift.train.watchdog import Watchdog
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny

FINGERPRINT = {'seed': 42}


class Shuffled:
    """Steps of two rows; order and lengths are a pure function of (seed, epoch)."""

    rows, per_step = 12, 2

    def __init__(self):
        self.taken = 0

    @property
    def epoch(self) -> float:
        return self.taken / (self.rows / self.per_step)

    def __iter__(self):
        while True:
            epoch, at = divmod(self.taken, self.rows // self.per_step)
            order = np.random.default_rng([42, epoch]).permutation(self.rows)
            self.taken += 1
            yield [one_batch(order[at * self.per_step : (at + 1) * self.per_step])]

    def state_dict(self):
        return {'taken': self.taken}

    def load_state_dict(self, state):
        self.taken = state['taken']


def one_batch(rows) -> Batch:
    lengths = tuple(int(4 + row % 5) for row in rows)
    ids = [torch.arange(n) * 7 % 380 + 3 + int(row) for row, n in zip(rows, lengths, strict=True)]
    weights = [(torch.arange(n) > 0).float() for n in lengths]
    return Batch(
        input_ids=torch.cat(ids),
        position_ids=torch.cat([torch.arange(n) for n in lengths]),
        segments=Segments(lengths),
        weight=torch.cat(weights),
        origins=tuple(Origin('rows.jsonl', int(row) + 1) for row in rows),
    )


def backend(*, dropout: float = 0.1, damage=None) -> TorchBackend:
    """The tiny llama with a LoRA; ``damage`` may change the model before it trains."""

    def build():
        model = attach(tiny.model('llama'), TunerArgs(lora_rank=2, lora_dropout=dropout))
        if damage is not None:
            damage(model)
        return model

    info = ModelInfo(path=Path(), id='tiny', model_type='llama', architecture='', dtype='float32', max_model_len=64)
    return TorchBackend(
        Builder(info, None, build),
        Settings(max_length=16),
        optimizer=lambda model, masters: optim.make(
            'adamw_torch', optim.groups(model, masters, lr=1e-2, weight_decay=0.1), lr=1e-2, betas=(0.9, 0.95), eps=1e-8
        ),
        schedule=lambda step: 1.0 / (1 + step),
        write_model=lambda model, folder: model.save_pretrained(folder),
    )


def train(
    run: Path,
    *,
    steps: int,
    save: int = 2,
    limit: int | None = 2,
    resume_from: Path | None = None,
    damage=None,
    fingerprint: dict | None = None,
    during=lambda step: None,
    evaluating=lambda: None,
    hang_timeout: float = 0,
) -> TorchBackend:
    """Train to ``steps``, evaluating every 4 and saving every ``save``.

    ``during`` is called with every step, ``evaluating`` in the middle of every evaluation. Returns the backend as it
    is at the end.
    """
    torch.manual_seed(42)
    fingerprint = fingerprint or FINGERPRINT
    with files.lock(run), Signals() as signals, Watchdog(run, budget=hang_timeout) as watchdog:
        files.write(run / 'args.json', '{"seed": 42}')
        made, source = backend(damage=damage), Shuffled()
        keep = resume.saver(run, made, source, fingerprint=fingerprint, extras=extras, limit=limit)
        progress = (
            resume.load(resume_from, made, source, fingerprint=fingerprint, run=run) if resume_from else Progress()
        )
        pace = Pace(steps=steps, log=1, evaluate=4, save=save)
        Trainer(
            made,
            OBJECTIVES['sft'](),
            source,
            pace,
            trackers=[Journal(run / resume.JOURNAL), After(during)],
            evaluate_on=lambda: evaluation(evaluating),
            save=keep,
            progress=progress,
            skipped=run / resume.SKIPPED,
            signals=signals,
            watchdog=watchdog,
        ).fit()
    return made


def evaluation(between):
    yield one_batch([1, 2, 3])
    between()
    yield one_batch([4, 5])


class After:
    """A tracker that calls a function with every training step."""

    def __init__(self, call):
        self.call = call

    def log(self, step, record):
        if 'eval_loss' not in record:
            self.call(step)

    def close(self):
        pass


def extras(folder: Path) -> None:
    (folder / 'args.json').write_text('{"seed": 42}')


def weights(made: TorchBackend) -> dict[str, bytes]:
    """Everything the backend would go on from, as bytes."""
    return {name: tensor.numpy().tobytes() for name, tensor in made.state()[0].items()}


TIMED = {'tokens/s', 'memory(GiB)', 'elapsed_time', 'remaining_time'}


def records(run: Path) -> list[dict]:
    """logging.jsonl without what depends on the clock."""
    import json

    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMED}
        for line in files.lines(run / resume.JOURNAL)
    ]
