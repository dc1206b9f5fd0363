"""The largest batch before the first step: it leaves no trace."""

import copy

import pytest
import torch

from swift.objectives import OBJECTIVES
from swift.train import rehearsal, state
from tests.parallel.test_one_device import backend, batch

NOISY = {'neftune_alpha': 5.0}


def losses(made, steps=4):
    found = []
    for step in range(steps):
        micro = [batch([step % 6]), batch([(step + 2) % 6])]
        found.append(float(made.forward_backward(micro, OBJECTIVES['sft']())['loss'][0]))
        made.optim_step()
    return found


def rehearse(made, micro):
    rehearsal.rehearse(made, OBJECTIVES['sft'](), micro, lambda batches, objective: batches)


@pytest.mark.parametrize('clip', [0.0, 1.0], ids=['within', 'after'])
@pytest.mark.parametrize('kind', [{}, {'name': 'adamw_bf16', 'masters': False}, {'lora': True}, {'one_pass': False}])
def test_losses_and_weights_are_the_same_bits_with_and_without(kind, clip):
    runs = []
    for micro in ([], [batch([0, 1, 2])], [batch([3]), batch([0, 1, 2])]):
        torch.manual_seed(0)
        made = backend(**{'dtype': 'bfloat16', 'one_pass': True, 'max_grad_norm': clip, **NOISY, **kind})
        if micro:
            rehearse(made, micro)
            assert all(p.grad is None for p in (*made.trained.values(), *made.masters.values()))
        runs.append((losses(made), {name: value.clone() for name, value in made.state()[0].items()}))
    for found, weights in runs[1:]:
        assert found == runs[0][0]
        assert weights.keys() == runs[0][1].keys()
        assert all(torch.equal(weights[name], value) for name, value in runs[0][1].items())


def test_random_generators_are_put_back():
    made = backend(dtype='float32', **NOISY)
    before = copy.deepcopy(state.random_state())
    rehearse(made, [batch([0, 1])])
    tensors, data = state.random_state()
    assert data == before[1]
    assert all(torch.equal(value, before[0][name]) for name, value in tensors.items())


def test_the_first_check_of_kernels_waits_for_the_first_batch():
    made = backend(dtype='float32')
    assert made._unchecked
    rehearse(made, [batch([0, 1])])
    assert made._unchecked


@pytest.mark.parametrize(
    ('asked', 'device', 'steps', 'share', 'expected'),
    [
        (None, 'cuda', 1000, 0.1, True),
        (None, 'cuda', 5, 0.1, False),
        (None, 'cpu', 1000, 0.9, True),
        (None, 'cpu', 1000, 0.5, False),
        (None, 'cpu', 1000, None, False),
        (True, 'cpu', 1, None, True),
        (False, 'cuda', 1000, 0.99, False),
    ],
)
def test_when_a_run_is_rehearsed(asked, device, steps, share, expected):
    assert rehearsal.wanted(asked, device=device, steps=steps, share=share) is expected
