"""A residual sum and its norm in one pass: the bits of one after the other, and float64, in shapes that hurt."""

import copy

import pytest
import torch

from swift.kernels import again, compiled, device, layers, residual
from swift.kernels.norm import rms_norm
from tests import tiny

EPS = 1e-6
SHAPES = [(1, 1), (5, 1), (1, 8192), (3, 577), (2, 40, 33), (700, 8), (0, 16)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
WAYS = [(0.0, True), (0.0, False), (1.0, False)]
compiles = pytest.mark.skipif(compiled.missing() is not None, reason='no C++ kernels here')


def data(shape, dtype):
    """x, delta, weight; gradients of the sum and of its norm."""
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    x, delta, direct, pull = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    weight = torch.randn(shape[-1], generator=generator).to(dtype)
    return [each.requires_grad_() for each in (x, delta, weight)], (direct, pull)


def outcome(function, inputs, pulls, way):
    """Results and gradients."""
    out = function(*inputs, EPS, offset=way[0], early=way[1])
    return [*out, *torch.autograd.grad(out, inputs, pulls)]


def one_after_the_other(x, delta, weight, eps, *, offset, early):
    total = x + delta
    return total, rms_norm(total, weight, eps, offset=offset, early=early)


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@compiles
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('way', WAYS)
def test_results_and_gradients_are_the_bits_of_a_sum_and_a_norm(shape, dtype, way):
    inputs, pulls = data(shape, dtype)
    assert residual.takes(*inputs)
    found = outcome(residual.residual_norm, inputs, pulls, way)
    assert same(found, outcome(one_after_the_other, inputs, pulls, way))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('way', WAYS)
def test_results_and_gradients_equal_float64(shape, dtype, way):
    inputs, pulls = data(shape, dtype)
    found = outcome(residual.residual_norm, inputs, pulls, way)
    _, delta, weight = (each.detach().double() for each in inputs)
    total = (inputs[0] + inputs[1]).detach().double()  # rounded, as both ways have it
    exact = [(total - delta).requires_grad_(), delta.requires_grad_(), weight.requires_grad_()]
    expected = outcome(residual.plain, exact, [each.double() for each in pulls], (way[0], False))
    # gradients are sums whose terms may cancel: errors are held against the terms
    rstd = (total.square().mean(-1, keepdim=True) + EPS).rsqrt()
    slope = pulls[0].abs() + (pulls[1] * (way[0] + weight)).abs() * rstd
    terms = [each.abs() for each in expected[:2]]
    terms += [slope, slope, (pulls[1] * total * rstd).abs().sum(tuple(range(len(shape) - 1)))]
    for each, wanted, size in zip(found, expected, terms, strict=True):
        assert each.dtype == dtype and each.shape == wanted.shape
        limit = TOLERANCE[dtype] * (wanted.abs() + size.amax(-1, keepdim=True))
        assert ((each.double() - wanted).abs() <= limit).all()


def test_the_gradient_is_that_of_finite_differences():
    inputs, _ = data((3, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda *each: residual.residual_norm(*each, EPS, early=False), inputs)


@compiles
def test_a_result_that_nobody_uses_has_no_gradient():
    inputs, pulls = data((6, 8), torch.bfloat16)
    for used in (0, 1):
        found, expected = (
            torch.autograd.grad(
                function(*inputs, EPS, offset=0.0, early=True)[used], inputs, pulls[used], allow_unused=True
            )
            for function in (residual.residual_norm, one_after_the_other)
        )
        assert (found[2] is None) == (expected[2] is None) == (used == 0)
        assert same(found[: 2 + used], expected[: 2 + used])


@compiles
def test_views_expanded_gradients_and_frozen_weights_are_taken():
    inputs, _ = data((6, 10, 8), torch.float32)
    outcomes = []
    for function in (residual.residual_norm, one_after_the_other):
        x, delta = (each.transpose(0, 1) for each in inputs[:2])
        total, y = function(x, delta, inputs[2].detach(), EPS, offset=0.0, early=True)
        outcomes.append(torch.autograd.grad(total.sum() + y.sum(), inputs[:2]))
    assert same(*outcomes)


def test_shapes_and_types_without_a_kernel_take_the_plain_way():
    (x, delta, weight), _ = data((2, 3, 8), torch.float32)
    assert not residual.takes(x, delta[:1], weight) and not residual.takes(x, delta.bfloat16(), weight)
    total, y = residual.residual_norm(x, delta[:1], weight, EPS)
    assert torch.equal(total, x + delta[:1]) and y.shape == x.shape


@compiles
def test_a_bad_number_stays_in_its_row():
    inputs, pulls = data((5, 16), torch.bfloat16)
    with torch.no_grad():
        inputs[1][2, 3] = float('nan')
    total, y, grad_x, grad_delta, _ = outcome(residual.residual_norm, inputs, pulls, WAYS[0])
    bad = torch.arange(5) == 2
    assert total.isnan().sum() == 1 and torch.equal(grad_x.isnan().any(1), bad) and torch.equal(y.isnan().all(1), bad)
    assert grad_delta.isnan().sum() == grad_x.isnan().sum()


# -------------------------------------------------------------------------------------------------------- in models
FAMILIES = {
    'llama': {},
    'qwen3': {},
    'gemma2': {},
    'phi3': tiny.SIZE,
    'granite': {**tiny.SIZE, 'residual_multiplier': 0.3},
    'qwen3_moe': {**tiny.SIZE, 'num_experts': 4, 'num_experts_per_tok': 2, 'moe_intermediate_size': 16},
}


def made(architecture, monkeypatch, dtype='bfloat16'):
    monkeypatch.setitem(tiny.SIZES, architecture, {**tiny.SIZES.get(architecture, {}), **FAMILIES[architecture]})
    model = tiny.model(architecture, dtype=dtype).train()
    layers.install(model, wanted={'norm'})
    return model


def step(model):
    """Loss and gradients of one row of tokens."""
    ids = torch.arange(40)[None] * 7 % 400
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def steps_taken(monkeypatch):
    """Counts calls of the kernel."""
    calls = []
    right = layers.residual_norm
    monkeypatch.setattr(layers, 'residual_norm', lambda *args, **kw: calls.append(1) or right(*args, **kw))
    return calls


@compiles
@pytest.mark.parametrize('architecture', FAMILIES)
def test_a_model_computes_the_same_bits(architecture, monkeypatch):
    model = made(architecture, monkeypatch)
    expected, names, calls = step(model), list(model.state_dict()), steps_taken(monkeypatch)
    fitted = layers.install(model, wanted={'residual'})
    assert [(each.name, each.count) for each in fitted.switches] == [('residual', 2)] and fitted.left == {}
    assert same(step(model), expected) and len(calls) == 2 and list(model.state_dict()) == names
    fitted.switches[0].off()
    assert same(step(model), expected) and len(calls) == 2


@compiles
def test_gradient_checkpointing_computes_layers_twice_and_the_same_bits(monkeypatch):
    model = made('llama', monkeypatch)
    expected, calls = step(model), steps_taken(monkeypatch)
    layers.install(model, wanted={'residual'})
    model.gradient_checkpointing_enable({'use_reentrant': False})
    assert same(step(model), expected) and len(calls) == 4


@compiles
def test_results_made_again_are_the_same_bits(monkeypatch):
    model = made('llama', monkeypatch)
    expected = step(model)
    layers.install(model, wanted={'residual'})
    again.install(model.model)
    assert same(step(model), expected)


@compiles
def test_adapters_and_copies_have_it(monkeypatch):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(made('llama', monkeypatch), LoraConfig(target_modules='all-linear', init_lora_weights=False))
    expected, calls = step(model), steps_taken(monkeypatch)
    layers.install(model, wanted={'residual'})
    assert same(step(model), expected) and len(calls) == 2
    assert same(step(copy.deepcopy(model)), expected) and len(calls) == 4


@compiles
def test_hooks_of_every_child_are_called_and_a_watched_norm_is_called_as_a_module(monkeypatch):
    model = made('llama', monkeypatch)
    expected, calls = step(model), steps_taken(monkeypatch)
    layers.install(model, wanted={'residual'})
    told = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, args, out, name=name: told.append(name))
    assert same(step(model), expected) and calls == []
    assert sorted(told) == sorted(name for name, _ in model.named_modules() if name != 'model.layers')


@compiles
def test_a_norm_that_was_exchanged_is_called(monkeypatch):
    model = made('llama', monkeypatch)
    layers.install(model, wanted={'residual'})
    calls = steps_taken(monkeypatch)
    model.model.layers[0].post_attention_layernorm = torch.nn.LayerNorm(32, dtype=torch.bfloat16)
    step(model)
    assert len(calls) == 1


def test_layers_without_a_sum_before_a_norm_stay(monkeypatch):
    monkeypatch.setitem(tiny.SIZES, 'olmo2', tiny.SIZE)
    for architecture in ('olmo2', 'gpt2'):
        assert layers.install(tiny.model(architecture), wanted={'residual'}).switches == []


@pytest.mark.skipif(device.missing('cpu') is not None, reason='no C++ kernels here')
def test_a_layer_whose_forward_was_replaced_stays(monkeypatch):
    model = made('llama', monkeypatch)
    first = model.model.layers[0]
    first.forward = lambda hidden, **_: hidden
    fitted = layers.install(model, wanted={'residual'})
    assert fitted.switches[0].count == 1 and 'replaced before' in fitted.left['model.layers.0']
