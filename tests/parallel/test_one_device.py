"""The one-device backend: a loss and gradient that depend on the rows only, against a plain transformers loop."""

from functools import partial

import numpy as np
import pytest
import torch

from swift.core.types import Batch, Builder, ModelInfo, Segments
from swift.objectives import OBJECTIVES
from swift.parallel.one_device import TorchBackend
from swift.parallel.settings import Settings
from swift.train import optim
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny

ROWS = [np.arange(3, 3 + n) * 7 % 400 for n in (5, 12, 3, 9, 7, 2)]
WEIGHTS = [np.where(np.arange(len(row)) < 2, 0.0, 1.0 + 0.5 * (i % 2)) for i, row in enumerate(ROWS)]


def batch(indices):
    lengths = tuple(len(ROWS[i]) for i in indices)
    return Batch(
        input_ids=torch.cat([torch.tensor(ROWS[i]) for i in indices]),
        position_ids=torch.cat([torch.arange(n) for n in lengths]),
        segments=Segments(lengths),
        weight=torch.cat([torch.tensor(WEIGHTS[i], dtype=torch.float32) for i in indices]),
    )


def backend(
    architecture='llama', *, dtype='float64', lora=False, lr=1e-2, name='adamw_torch', one_pass=False, **settings
):
    def build():
        model = tiny.model(architecture, dtype=dtype)
        if lora:
            torch.manual_seed(3)
            model = attach(model, TunerArgs(lora_dropout=0.0, init_weights='gaussian'))
            for parameter_name, parameter in model.named_parameters():
                if 'lora_B' in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.1)
        return model

    info = ModelInfo(path=None, id='tiny', model_type=architecture, architecture='', dtype=dtype, max_model_len=64)
    return TorchBackend(
        Builder(info, None, build),
        Settings(**settings),
        optimizer=lambda model, masters: optim.make(
            name,
            optim.groups(model, masters, lr=lr, weight_decay=0.1),
            lr=lr,
            betas=(0.9, 0.95),
            eps=1e-8,
            one_pass=one_pass,
        ),
        schedule=lambda step: 1.0,
        write_model=lambda model, folder: None,
    )


def gradients(backend, micro):
    metrics = backend.forward_backward(micro, OBJECTIVES['sft']())
    loss = float(metrics['loss'][0]) / float(metrics['loss'][1])
    found = {name: master.grad.clone() for name, master in backend.masters.items()}
    for master in backend.masters.values():
        master.grad = None
    return loss, found


def reference(architecture, lora=False):
    """Loss and gradients by transformers alone, one row at a time, in float64."""
    model = backend(architecture, lora=lora, attn_impl='eager').model
    count = sum(int((w != 0).sum()) for w in WEIGHTS)
    total = torch.zeros((), dtype=torch.float64)
    for row, weight in zip(ROWS, WEIGHTS, strict=True):
        logits = model(input_ids=torch.tensor(row)[None]).logits[0]
        logps = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(row)[1:, None])[:, 0]
        total = total - (logps * torch.tensor(weight[1:])).sum()
    (total / count).backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return float(total / count), named


SPLITS = [[[0, 1, 2, 3, 4, 5]], [[5, 3, 1], [0, 2, 4]], [[0], [1], [2], [3], [4], [5]]]


@pytest.mark.parametrize('architecture', tiny.SIZES)
@pytest.mark.parametrize('lora', [False, True], ids=['full', 'lora'])
def test_loss_and_gradient_do_not_depend_on_packing_or_micro_batches(architecture, lora):
    expected_loss, expected = reference(architecture, lora)
    made = backend(architecture, lora=lora)
    assert made.unpacked_reason is None
    tolerance = 1e-6 if architecture == 'gemma2' else 1e-10  # its own eager softmax is fp32 whatever the weights
    for split in SPLITS:
        loss, found = gradients(made, [batch(indices) for indices in split])
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            assert float((found[name] - grad).norm()) <= tolerance * max(1e-3, float(grad.norm())), name


def test_a_model_that_cannot_pack_gets_the_same_loss_one_sequence_at_a_time():
    packed_loss, packed = gradients(backend(), [batch([0, 1, 2, 3])])
    made = backend(attn_impl='eager')
    assert made.unpacked_reason is not None
    loss, found = gradients(made, [batch([0, 1, 2, 3])])
    assert loss == pytest.approx(packed_loss, rel=1e-10)
    for name, grad in packed.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-8, atol=1e-12)


def test_a_batch_without_targets_has_no_loss_and_no_gradient():
    made = backend()
    empty = batch([0, 1])
    empty.weight.zero_()
    metrics = made.forward_backward([empty], OBJECTIVES['sft']())
    assert float(metrics['loss'][0]) == 0.0
    assert made.optim_step()['grad_norm'] == 0.0


def test_first_steps_equal_a_plain_transformers_loop():
    made = backend(dtype='float32', name='adamw_torch_fused', lr=1e-3)
    model = tiny.model(dtype='float32').train()
    decay = [p for n, p in model.named_parameters() if 'norm' not in n]
    rest = [p for n, p in model.named_parameters() if 'norm' in n]
    groups = [{'params': decay, 'weight_decay': 0.1}, {'params': rest, 'weight_decay': 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    for step in range(10):
        indices = [step % 6, (step + 1) % 6]
        metrics = made.forward_backward([batch(indices)], OBJECTIVES['sft']())
        norm = made.optim_step()['grad_norm']
        total, count = torch.zeros(()), 0
        for i in indices:
            logits = model(input_ids=torch.tensor(ROWS[i])[None]).logits[0]
            logps = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ROWS[i])[1:, None])[:, 0]
            total = total - (logps * torch.tensor(WEIGHTS[i][1:], dtype=torch.float32)).sum()
            count += int((WEIGHTS[i] != 0).sum())
        (total / count).backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert float(metrics['loss'][0]) / count == pytest.approx(float(total) / count, rel=1e-5)
        assert norm == pytest.approx(float(expected_norm), rel=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('lora', [False, True], ids=['full', 'lora'])
def test_state_goes_on_bit_for_bit(dtype, lora):
    make = partial(backend, dtype=dtype, lora=lora)

    def run(made, steps):
        for step in steps:
            made.forward_backward([batch([step % 6, (step + 2) % 6])], OBJECTIVES['sft']())
            made.optim_step()
        return {name: value.clone() for name, value in made.state()[0].items()}

    whole = make()
    expected = run(whole, range(6))
    first = make()
    run(first, range(3))
    tensors, data = first.state()
    second = make()
    second.load_state({name: value.clone() for name, value in tensors.items()}, data)
    found = run(second, range(3, 6))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    for (name, one), (_, two) in zip(whole.weights(), second.weights(), strict=True):
        assert torch.equal(one, two), name


def test_sixteen_bit_weights_learn_through_fp32_masters():
    made = backend(dtype='bfloat16', lr=1e-5)
    before = {name: master.clone() for name, master in made.masters.items()}
    for _ in range(3):
        made.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
        made.optim_step()
    moved = [name for name, master in made.masters.items() if not torch.equal(master, before[name])]
    assert len(moved) == len(before)
    for name, weight in made.weights():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, made.masters[name].to(torch.bfloat16))


def test_a_non_finite_gradient_updates_nothing():
    made = backend(dtype='float32')
    before = {name: master.clone() for name, master in made.masters.items()}
    made.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    next(iter(made.masters.values())).grad[0] = float('nan')
    facts = made.optim_step()
    assert facts['skipped'] == 1.0
    assert made.step_count == 0
    assert all(torch.equal(master, before[name]) for name, master in made.masters.items())


def test_fp16_halves_its_loss_scale_on_overflow_and_goes_on():
    made = backend(dtype='float16')
    made.loss_scale = 2.0**40
    made.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    facts = made.optim_step()
    assert (facts['skipped'], facts['scale_search']) == (1.0, 1.0)
    assert made.loss_scale == 2.0**39
    made.loss_scale = 2.0**8
    made.forward_backward([batch([0, 1])], OBJECTIVES['sft']())
    assert made.optim_step()['skipped'] == 0.0


def test_neftune_noise_is_sized_by_each_sequence_and_off_in_evaluation():
    from swift.parallel.one_device import Neftune

    noise = Neftune(5.0)
    noise.segments = Segments((4, 100))
    layer = torch.nn.Embedding(10, 16)
    embedded = torch.zeros(1, 104, 16)
    noisy = noise(layer, (), embedded)
    assert float(noisy[0, :4].abs().max()) <= 5.0 / (4 * 16) ** 0.5
    assert float(noisy[0, :4].abs().max()) > 5.0 / (100 * 16) ** 0.5
    assert float(noisy[0, 4:].abs().max()) <= 5.0 / (100 * 16) ** 0.5
    assert torch.equal(noise(layer.eval(), (), embedded), embedded)


@pytest.mark.parametrize('wrong', [float('nan'), 3.0])
def test_a_kernel_that_gives_no_number_or_a_wrong_one_is_switched_off(wrong, monkeypatch):
    from swift.kernels import layers

    made = backend(dtype='float32')
    assert 'gated' in [each.name for each in made.kernels]
    monkeypatch.setattr(layers, 'gated', lambda gate, up, act: gate * up * wrong)
    made.check_kernels(batch([0, 1]))
    assert 'gated' not in [each.name for each in made.kernels]


def values_only(module, query, key, value, mask, **_):
    """Attention that looks at nothing."""
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2), None


def test_a_fast_path_that_is_wrong_is_found_on_the_first_batch(monkeypatch):
    from transformers import AttentionInterface

    from swift.core.errors import NumericalError
    from swift.kernels import attention

    made, refusing = backend(dtype='float32'), backend(dtype='float32', kernel_check='refuse')
    plain, right = gradients(backend(dtype='float32', attn_impl='eager'), [batch([0, 1, 2])])
    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, values_only)
    loss, found = gradients(made, [batch([0, 1, 2])])
    assert 'switched off' in made.unpacked_reason
    assert 'attention' not in [each.name for each in made.kernels] and made.kernels
    assert loss == pytest.approx(plain, rel=1e-6)
    for name, grad in right.items():
        torch.testing.assert_close(found[name], grad)
    with pytest.raises(NumericalError, match='loss differs'):
        gradients(refusing, [batch([0, 1, 2])])


@pytest.mark.parametrize('name', ['adamw_torch_fused', 'adamw_torch'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_one_pass_adamw_takes_the_steps_of_torchs(name, dtype):
    weights = []
    for one_pass in (False, True):
        made = backend(dtype=dtype, name=name, one_pass=one_pass, max_grad_norm=0.1)
        for step in range(3):
            made.forward_backward([batch([step])], OBJECTIVES['sft']())
            made.optim_step()
        weights.append({name: p.detach().clone() for name, p in made.masters.items()})
        assert all(torch.equal(p, made.masters[name].to(p.dtype)) for name, p in made.trained.items())
    for each, expected in weights[0].items():
        torch.testing.assert_close(weights[1][each], expected, rtol=1e-4, atol=1e-5)


def test_without_masters_16_bits_learn_as_32():
    last = []
    for name, dtype in (('adamw_torch', 'float32'), ('adamw_bf16', 'bfloat16')):
        made = backend(dtype=dtype, name=name, masters=name not in optim.WITHOUT_MASTERS)
        assert next(iter(made.masters.values())) is next(iter(made.trained.values()))
        losses = []
        for _ in range(15):
            sums = made.forward_backward([batch([0, 1, 2])], OBJECTIVES['sft']())
            losses.append(float(sums['loss'][0] / sums['loss'][1]))
            made.optim_step()
        assert losses[-1] < 0.7 * losses[0]
        last.append(losses[-1])
    assert last[1] == pytest.approx(last[0], rel=0.1)
