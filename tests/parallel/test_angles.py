"""Packs of models whose rotary angles depend on a sequence's length: every row has the loss of transformers alone."""

from __future__ import annotations

import pytest
import torch

from swift.core.types import Batch, Builder, ModelInfo, Segments
from swift.objectives import OBJECTIVES
from swift.parallel.one_device import TorchBackend
from swift.parallel.runner import Runner
from swift.parallel.settings import Settings
from swift.train import optim
from tests import moving

ROWS = [torch.tensor(moving.text(n, seed)) for seed, n in enumerate((20, 60, 32, 33, 8, 45), 1)]
LOGPS = frozenset({'logps'})


def pack(parts: list[torch.Tensor], prefix_of: tuple[int, ...] = ()) -> Batch:
    """Everything but the first token of a sequence is a target."""
    segments = Segments(tuple(map(len, parts)), prefix_of)
    spans = zip(segments.offsets, segments.lengths, strict=True)
    weight = [torch.ones(len(part)) for part in parts]
    for i, parent in enumerate(segments.parents):
        weight[i][0] = float(parent >= 0)
    positions = torch.cat([torch.arange(at, at + n) for at, n in spans])
    return Batch(torch.cat(parts), positions, segments, torch.cat(weight))


def alone(name: str, row: torch.Tensor, dtype: str = 'float64') -> torch.Tensor:
    """Log-probabilities of all tokens but the first, by a model that has seen nothing else."""
    logits = moving.model(name, dtype=dtype)(input_ids=row[None]).logits[0]
    return logits.log_softmax(-1)[:-1].gather(1, row[1:, None])[:, 0]


@pytest.mark.parametrize('name', [*moving.MOVING, *moving.STILL])
@pytest.mark.parametrize('order', [(0, 1, 2, 3, 4, 5), (1, 0), (3, 2, 5)], ids=str)
def test_every_row_of_a_pack_has_the_log_probabilities_of_transformers_alone(name, order):
    rows = [ROWS[i] for i in order]
    dtype, tolerance = ('float32', 1e-4) if name == 'phimoe' else ('float64', 1e-6)  # torch has no experts in float64
    runner = Runner(moving.model(name, dtype=dtype), Settings(max_length=64))
    assert runner.unpacked_reason is None
    with torch.no_grad():
        found = runner.outputs(pack(rows), LOGPS).logps.split([len(row) for row in rows])
    for row, each in zip(rows, found, strict=True):
        torch.testing.assert_close(each[1:], alone(name, row, dtype), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize('name', ['dynamic', 'longrope'])
@pytest.mark.parametrize('sizes', [(9, 5, 12), (20, 5, 30), (25, 30, 12)], ids=str)
def test_a_shared_beginning_has_the_angles_of_each_sequence_that_goes_on_from_it(name, sizes):
    start, *others = (torch.tensor(moving.text(n, seed)) for seed, n in enumerate(sizes, 4))
    runner = Runner(moving.model(name, dtype='float64'), Settings(max_length=64))
    with torch.no_grad():
        found = runner.outputs(pack([start, *others], (-1, 0, 0)), LOGPS).logps.split(list(sizes))
    assert runner.unshared_reason() is None
    for part, each in zip(others, found[1:], strict=True):
        wanted = alone(name, torch.cat([start, part]))[len(start) - 1 :]
        torch.testing.assert_close(each, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('checkpointing', [False, True])
@pytest.mark.parametrize('name', ['dynamic', 'phi3'])
def test_gradients_of_a_pack_are_those_of_its_rows_one_by_one(name, checkpointing):
    backend = trained(name, gradient_checkpointing=checkpointing)
    backend.forward_backward([pack(ROWS)], OBJECTIVES['sft']())
    model = moving.model(name, dtype='float64')
    total = torch.zeros((), dtype=torch.float64)
    for row in ROWS:
        model.model.rotary_emb(torch.zeros(1), torch.zeros(1, 1, dtype=torch.int64))  # forget the row before
        logits = model(input_ids=row[None]).logits[0]
        total = total - logits.log_softmax(-1)[:-1].gather(1, row[1:, None]).sum()
    (total / sum(len(row) - 1 for row in ROWS)).backward()
    wanted = dict(model.named_parameters())
    for key, master in backend.masters.items():
        torch.testing.assert_close(master.grad, wanted[key].grad, atol=1e-6, rtol=1e-5)


def trained(name: str, **settings) -> TorchBackend:
    info = ModelInfo(path=None, id='tiny', model_type='', architecture='', dtype='float64', max_model_len=64)
    return TorchBackend(
        Builder(info, None, lambda: moving.model(name, dtype='float64')),
        Settings(max_length=64, **settings),
        optimizer=lambda model, masters: optim.make(
            'adamw_torch', optim.groups(model, masters, lr=1e-3, weight_decay=0.0), lr=1e-3, betas=(0.9, 0.95), eps=1e-8
        ),
        schedule=lambda step: 1.0,
        write_model=lambda model, folder: None,
    )


def test_the_model_is_given_back_as_it_came():
    model = moving.model('longrope')
    runner = Runner(model, Settings(max_length=64))
    assert 'forward' in vars(model.model.rotary_emb)
    runner.close()
    assert 'forward' not in vars(model.model.rotary_emb)


def test_a_model_of_unknown_code_whose_angles_move_runs_one_sequence_at_a_time():
    runner = Runner(moving.foreign(), Settings(max_length=64))
    assert 'longest sequence' in runner.unpacked_reason
    with torch.no_grad():
        found = runner.outputs(pack(ROWS), LOGPS).logps.split([len(row) for row in ROWS])
    for row, each in zip(ROWS, found, strict=True):
        logits = moving.foreign()(input_ids=row[None]).logits[0]
        wanted = logits.log_softmax(-1)[:-1].gather(1, row[1:, None])[:, 0]
        torch.testing.assert_close(each[1:], wanted, atol=1e-4, rtol=1e-4)
