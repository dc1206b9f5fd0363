"""The step within the backward pass: the same weights to the last bit, and never all gradients at once."""

import math

import pytest
import torch

from swift.core.types import Loss
from swift.objectives import OBJECTIVES
from swift.parallel import in_backward
from tests.parallel.test_one_device import backend, batch

KINDS = [('adamw_torch', 'bfloat16'), ('adamw_torch_fused', 'float32'), ('adamw_bf16', 'bfloat16')]
WITHOUT_CLIPPING = {'one_pass': True, 'max_grad_norm': 0.0}


def made(within, *, name='adamw_torch', dtype='bfloat16', **settings):
    masters = name != 'adamw_bf16'
    return backend(dtype=dtype, name=name, masters=masters, step_in_backward=within, **WITHOUT_CLIPPING, **settings)


def steps(backend, numbers):
    facts = []
    for step in numbers:
        micro = [batch([step % 6, (step + 2) % 6])] if step != 3 else [batch([0]), batch([1, 2])]
        backend.forward_backward(micro, OBJECTIVES['sft']())
        facts.append(backend.optim_step())
    return facts


def kept(backend):
    return {name: value.clone() for name, value in backend.state()[0].items()}


@pytest.mark.parametrize(('name', 'dtype'), KINDS)
@pytest.mark.parametrize('recompute', [False, True], ids=['keep', 'recompute'])
def test_weights_are_the_same_bits_as_of_the_ordinary_step(name, dtype, recompute):
    runs = [made(within, name=name, dtype=dtype, gradient_checkpointing=recompute) for within in (False, True)]
    ordinary, within = (steps(each, range(5)) for each in runs)
    assert ordinary == within
    first, second = (kept(each) for each in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[each], second[each]) for each in first)
    for (_, one), (_, two) in zip(runs[0].weights(), runs[1].weights(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(('name', 'dtype'), KINDS)
def test_a_resumed_run_goes_on_bit_for_bit_in_either_way(name, dtype):
    whole = made(True, name=name, dtype=dtype)
    steps(whole, range(5))
    first = made(True, name=name, dtype=dtype)
    steps(first, range(2))
    tensors, data = first.state()
    for within in (True, False):
        second = made(within, name=name, dtype=dtype)
        second.load_state({key: value.clone() for key, value in tensors.items()}, data)
        steps(second, range(2, 5))
        expected, found = kept(whole), kept(second)
        assert all(torch.equal(found[each], expected[each]) for each in expected)


def test_no_gradient_is_left_after_the_backward_pass():
    backend = made(True)
    backend.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    assert all(p.grad is None for p in (*backend.trained.values(), *backend.masters.values()))
    assert backend.optim_step()['skipped'] == 0.0


def test_the_gradient_of_an_only_micro_batch_stays_in_16_bits():
    backend = made(False)
    backend.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    assert all(p.grad.dtype == torch.bfloat16 for p in backend.trained.values())
    assert all(master.grad is None for master in backend.masters.values())


class Broken:
    """The loss, times a number."""

    needs = frozenset({'logps'})

    def __init__(self, factor):
        self.inner, self.factor = OBJECTIVES['sft'](), factor

    def count(self, batch):
        return self.inner.count(batch)

    def __call__(self, outputs, batch):
        loss = self.inner(outputs, batch)
        return Loss(loss.total * self.factor, loss.metrics)


def test_a_loss_that_is_not_finite_moves_nothing():
    backend = made(True)
    before = kept(backend)
    backend.forward_backward([batch([0, 1])], Broken(math.nan))
    facts = backend.optim_step(discard=True)
    assert facts['skipped'] == 1.0 and math.isnan(facts['grad_norm'])
    assert backend.step_count == 0
    assert all(torch.equal(value, before[name]) for name, value in kept(backend).items())
    assert steps(backend, [0])[0]['skipped'] == 0.0


def test_a_gradient_that_is_not_finite_stops_the_step_where_it_appears():
    backend = made(True)
    layers = backend.model.model.layers
    before = kept(backend)
    handle = layers[0].self_attn.o_proj.register_full_backward_hook(
        lambda module, grads, _: (torch.full_like(grads[0], torch.nan),)
    )
    backend.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    handle.remove()
    facts = backend.optim_step()
    assert facts['skipped'] == 1.0 and not math.isfinite(facts['grad_norm'])
    after = kept(backend)
    assert all(torch.isfinite(value).all() for value in after.values())
    same = lambda name: torch.equal(after[f'param/{name}'], before[f'param/{name}'])
    assert same('model.layers.0.self_attn.q_proj.weight')
    assert not same('model.layers.1.mlp.down_proj.weight')
    assert backend.step_count == 0
    assert steps(backend, [0])[0]['skipped'] == 0.0


@pytest.mark.parametrize(
    ('settings', 'word'),
    [({'max_grad_norm': 1.0}, 'max_grad_norm'), ({'fp16': True}, 'loss scale'), ({'name': 'sgd'}, '--optim')],
)
def test_what_stands_against_it_is_named(settings, word):
    options = {'max_grad_norm': 0.0, 'fp16': False} | {k: v for k, v in settings.items() if k != 'name'}
    optimizer = backend(dtype='bfloat16', name=settings.get('name', 'adamw_torch'), one_pass=True).optimizer
    assert word in in_backward.obstacle(optimizer, **options)


@pytest.mark.parametrize('kind', [{}, {'lora': True}, {'architecture': 'gemma2'}, {'architecture': 'qwen3'}])
def test_results_that_are_made_again_change_no_bit(kind):
    found = []
    for selective in (False, True):
        each = backend(**{'dtype': 'bfloat16', 'one_pass': True, 'selective_recompute': selective, **kind})
        found.append((steps(each, range(4)), kept(each)))
    (facts, weights), (again, others) = found
    assert facts == again
    assert all(torch.equal(others[name], value) for name, value in weights.items())
