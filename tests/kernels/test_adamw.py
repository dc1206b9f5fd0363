"""AdamW against torch's and float64; stochastic rounding is unbiased and repeats itself."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter

from swift.kernels import adamw
from swift.kernels.adamw import AdamW, Rule

SIZES = [(), (1,), (7, 33), (3 * 4096 + 5,)]
STATES = [
    (weight, grad, moments)
    for weight in (torch.float32, torch.bfloat16)
    for grad in (torch.float32, torch.bfloat16)
    for moments in (torch.float32, torch.bfloat16)
]
RULE = Rule(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, step=3, scale=0.5, key=adamw.mix(7, 3, 0))


def numbers(size, seed, scale=1.0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize('scale', [1.0, 0.125])
def test_fp32_steps_are_those_of_torch(scale):
    ours, theirs = ([Parameter(numbers(size, i)) for i, size in enumerate(SIZES)] for _ in range(2))
    groups = lambda ps: [{'params': ps[:2], 'weight_decay': 0.1, 'lr': 3e-3}, {'params': ps[2:]}]
    mine = AdamW(groups(ours), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    torchs = torch.optim.AdamW(groups(theirs), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(30):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = numbers(a.shape, 100 * step + i, 10.0 ** (i - 2))
            b.grad = a.grad * scale
        mine.step(scale=scale)
        torchs.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert mine.state[a].keys() == torchs.state[b].keys()
        for name, value in torchs.state[b].items():
            torch.testing.assert_close(mine.state[a][name], value, rtol=2e-6, atol=1e-6 * float(value.abs().max()))


def test_checkpoints_pass_to_torch_and_back():
    ours, theirs = Parameter(numbers(9, 0)), Parameter(numbers(9, 0))
    mine, torchs = AdamW([ours]), torch.optim.AdamW([theirs])
    ours.grad = theirs.grad = numbers(9, 1)
    mine.step()
    torchs.step()
    mine.load_state_dict(torchs.state_dict())
    torchs.load_state_dict({**torchs.state_dict(), 'state': mine.state_dict()['state']})
    mine.step()
    torchs.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('states', STATES)
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('update', [adamw.update_, adamw.plain_])
def test_a_step_is_within_one_rounding_of_float64(states, size, update):
    weight, grad, exp_avg, exp_avg_sq = (
        numbers(size, i).to(dtype) for i, dtype in enumerate((*states[:2], states[2], states[2]))
    )
    exp_avg_sq.square_()
    w, g, m, v = (each.double() for each in (weight, grad, exp_avg, exp_avg_sq))
    update(weight, grad, exp_avg, exp_avg_sq, RULE)

    beta1, beta2 = RULE.betas
    g = g * RULE.scale
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    fall = (m / (1 - beta1**3)) / ((v / (1 - beta2**3)).sqrt() + RULE.eps)
    w = w - RULE.lr * (fall + RULE.weight_decay * w)
    for found, expected in ((weight, w), (exp_avg, m), (exp_avg_sq, v)):
        unit = 2.0**-7 if found.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(found.double(), expected, rtol=unit, atol=2e-7)


@pytest.mark.parametrize('states', [each for each in STATES if torch.bfloat16 in (each[0], each[2])])
def test_the_kernel_and_torchs_operations_draw_the_same_bits(states):
    tensors = [numbers((5, 4096), i).square().to(d) for i, d in enumerate((*states[:2], states[2], states[2]))]
    others = [each.clone() for each in tensors]
    adamw.update_(*tensors, RULE)
    adamw.plain_(*others, RULE)
    for a, b in zip(tensors, others, strict=True):
        assert (a != b).float().mean() < (0.5 if a.dtype == torch.float32 else 2e-3)


def test_stochastic_rounding_is_unbiased_where_nearest_rounding_stands_still():
    size = 1 << 18
    weight = torch.ones(size, dtype=torch.bfloat16)
    grad, exp_avg, exp_avg_sq = torch.ones(size), torch.ones(size), torch.ones(size)
    rule = Rule(lr=1e-4, betas=(0.9, 0.999), eps=0.0, weight_decay=0.0, step=10**6)
    steps = 8
    for step in range(steps):
        key = adamw.mix(0, step, 0)
        adamw.update_(weight, grad, exp_avg, exp_avg_sq, replace(rule, key=key))
    moved = 1 - float(weight.double().mean())
    unit = 2.0**-8  # between bf16 numbers below 1
    deviation = unit * (steps / 4 / size) ** 0.5
    assert abs(moved - steps * rule.lr) < 5 * deviation
    assert (1 - torch.tensor(rule.lr)).bfloat16() == 1


def test_random_bits_are_even_and_unlike_from_place_to_place_and_step_to_step():
    like = torch.empty(1 << 16)
    first, second = adamw._bits(like, adamw.mix(1, 2, 3))
    other, _ = adamw._bits(like, adamw.mix(1, 3, 3))
    for bits in (first & 0xFFFF, first >> 16, second & 0xFFFF):
        uniform = bits.double() / 65536
        assert abs(uniform.mean() - 0.5) < 5 / (12 * len(like)) ** 0.5
        assert abs(torch.corrcoef(torch.stack([uniform[1:], uniform[:-1]]))[0, 1]) < 5 / len(like) ** 0.5
    for a, b in ((first & 0xFFFF, first >> 16), (first & 0xFFFF, other & 0xFFFF), (first >> 16, second & 0xFFFF)):
        assert abs(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1]) < 5 / len(like) ** 0.5


def train(optimizer, weights, steps):
    for step in steps:
        for i, weight in enumerate(weights):
            weight.grad = numbers(weight.shape, 10 * step + i).to(weight.dtype)
        optimizer.step(scale=0.5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('moments', [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_run_that_went_on_to_the_last_bit(dtype, moments):
    weights = [Parameter(numbers((40, 9), i).to(dtype)) for i in range(3)]
    optimizer = AdamW(weights, moments=moments, seed=5)
    train(optimizer, weights, range(3))
    saved, kept = copy.deepcopy(optimizer.state_dict()), [Parameter(w.detach().clone()) for w in weights]
    train(optimizer, weights, range(3, 6))
    resumed = AdamW(kept, moments=moments, seed=5)
    resumed.load_state_dict(saved)
    assert all(resumed.state[w]['exp_avg'].dtype == moments for w in kept)
    train(resumed, kept, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(weights, kept, strict=True))


def test_another_seed_rounds_another_way():
    outcomes = []
    for seed in (0, 0, 1):
        weights = [Parameter(numbers((40, 9), 0).bfloat16())]
        train(AdamW(weights, seed=seed), weights, range(2))
        outcomes.append(weights[0])
    assert torch.equal(outcomes[0], outcomes[1]) and not torch.equal(outcomes[0], outcomes[2])


def test_any_number_of_threads_gives_the_same_bits():
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weights = [Parameter(numbers(100_003, 0).bfloat16())]
            train(AdamW(weights, moments=torch.bfloat16), weights, range(2))
            outcomes.append(weights[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outcomes)


def test_the_models_copy_is_written_and_lends_its_gradient():
    master = Parameter(numbers((50, 7), 0))
    model, twin = Parameter(master.detach().bfloat16()), Parameter(master.detach().clone())
    optimizer = AdamW([master])
    optimizer.copies[master] = model
    model.grad = numbers((50, 7), 1).bfloat16()
    optimizer.step()
    assert torch.equal(model, master.bfloat16())
    twin.grad = model.grad.float()
    AdamW([twin]).step()
    assert torch.equal(master, twin)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_bad_gradient_stays_visible_where_it_was(dtype):
    weight = Parameter(torch.zeros(40, dtype=dtype))
    weight.grad = torch.zeros(40, dtype=dtype)
    weight.grad[3] = float('nan')
    AdamW([weight], moments=dtype).step()
    assert weight.isnan().nonzero().tolist() == [[3]]


def test_other_types_and_layouts_take_the_plain_way():
    wide, turned = Parameter(numbers((4, 6), 0).double()), Parameter(numbers((4, 6), 0).t())
    for weight in (wide, turned):
        twin = Parameter(weight.detach().clone())
        weight.grad = torch.ones_like(weight)
        twin.grad = weight.grad.clone()
        AdamW([weight], moments=weight.dtype).step()
        torch.optim.AdamW([twin]).step()
        torch.testing.assert_close(weight, twin)
