"""Fused kernels in whole models: the same numbers, the same weights' names, and only where a layer fits."""

import copy

import pytest
import torch
from torch import nn

from swift.kernels import device, layers
from tests import tiny

ELEMENTWISE = ('residual', 'norm', 'gated', 'rotary')
LIMIT = {'float32': 1e-5, 'bfloat16': 2e-2}
pytestmark = pytest.mark.skipif(device.missing('cpu') is not None, reason='no C++ kernels here')


def step(model, call=None):
    """Loss and gradients of one row of tokens."""
    ids = torch.arange(40)[None] * 7 % 400
    model.zero_grad()
    loss = (model if call is None else call)(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found, expected, limit):
    assert abs(found[0] - expected[0]) <= limit * expected[0]
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= limit * gradient.norm(), name


@pytest.mark.parametrize('dtype', LIMIT)
@pytest.mark.parametrize(('architecture', 'norms'), [('llama', 5), ('qwen3', 9), ('gemma2', 9), ('glm', 5)])
def test_loss_and_gradients_are_those_of_the_model_without_kernels(architecture, norms, dtype, monkeypatch):
    monkeypatch.setitem(tiny.SIZES, 'glm', {**tiny.SIZE, 'head_dim': 8})  # half of a head turns, in adjacent pairs
    model = tiny.model(architecture, dtype=dtype).train()
    plain, names = step(model), list(model.state_dict())
    fitted = layers.install(model, wanted=ELEMENTWISE)
    counts = {switch.name: switch.count for switch in fitted.switches}
    assert counts == {'residual': 2, 'norm': norms, 'gated': 2, 'rotary': 2}
    assert fitted.left == {} and list(model.state_dict()) == names
    assert_same(step(model), plain, LIMIT[dtype])
    assert_same(step(model), step(model), 0)


@pytest.mark.parametrize('dtype', LIMIT)
def test_gradient_checkpointing_changes_nothing(dtype):
    model = tiny.model(dtype=dtype).train()
    plain = step(model)
    layers.install(model, wanted=ELEMENTWISE)
    model.gradient_checkpointing_enable({'use_reentrant': False})
    assert_same(step(model), plain, LIMIT[dtype])


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_models_keep_the_kernels(backend):
    model = tiny.model(dtype='bfloat16').train()
    plain = step(model)
    layers.install(model, wanted=ELEMENTWISE)
    torch._dynamo.reset()
    assert_same(step(model, torch.compile(model, backend=backend, fullgraph=True)), plain, LIMIT['bfloat16'])


def test_autocast_computes_what_it_computes_without_kernels():
    model = tiny.model().train()
    with torch.autocast('cpu', torch.bfloat16):
        plain = step(model)
        layers.install(model, wanted=ELEMENTWISE)
        assert_same(step(model), plain, LIMIT['bfloat16'])


def test_kernels_are_switched_off_and_on_again():
    model = tiny.model()
    ids = torch.arange(9)[None]
    before = model(input_ids=ids).logits
    fitted = layers.install(model, wanted=ELEMENTWISE)
    for switch in fitted.switches:
        switch.off()
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any('forward' in vars(module) for module in model.modules())
    for switch in fitted.switches:
        switch.on()
    assert 'forward' in vars(model.model.norm)


def test_a_copy_of_a_model_computes_with_its_own_weights():
    model = tiny.model()
    layers.install(model, wanted=ELEMENTWISE)
    other = copy.deepcopy(model)
    nn.init.zeros_(other.model.norm.weight)
    ids = torch.arange(9)[None]
    assert not other(input_ids=ids).logits.any() and model(input_ids=ids).logits.any()


def test_adapters_inside_the_projections_stay():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.model().train(), LoraConfig(target_modules='all-linear', init_lora_weights=False))
    ids = torch.arange(9)[None]
    before = model(input_ids=ids).logits
    assert len(layers.install(model, wanted=ELEMENTWISE).switches) == 4
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_only_wanted_kernels_are_fitted():
    model = tiny.model()
    assert [switch.name for switch in layers.install(model, wanted={'gated'}).switches] == ['gated']
    assert layers.install(tiny.model(), wanted=()).switches == []


class Centred(nn.Module):
    """Has the parts of an RMSNorm and subtracts the mean."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(32)), 1e-6

    def forward(self, x):
        return nn.functional.rms_norm(x - x.mean(-1, keepdim=True), (32,), self.weight, self.eps)


class Clipped(nn.Module):
    """Has the parts of a SwiGLU layer and clips the gate."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x).clamp(max=7)) * self.up_proj(x))


class Dropping(Clipped):
    """Drops activations in training only."""

    def forward(self, x):
        inner = nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(nn.functional.dropout(inner, 0.1, self.training))


class Scaled(Clipped):
    """Reads a projection's weight instead of calling it."""

    def forward(self, x):
        return self.down_proj(nn.functional.silu(x @ self.gate_proj.weight.t()) * self.up_proj(x))


@pytest.mark.parametrize(
    ('module', 'why'),
    [
        (Centred(), 'does not compute RMSNorm'),
        (Clipped(), 'does not compute the product'),
        (Dropping().eval(), 'does not compute the product'),
        (Scaled(), 'more than a tensor'),
    ],
)
def test_a_layer_that_computes_something_else_is_left_as_it_was(module, why):
    parts = {**module._parameters, **module._modules}
    fitted = layers.install(nn.Sequential(module), wanted=ELEMENTWISE)
    assert fitted.switches == [] and why in fitted.left['0']
    assert 'forward' not in vars(module) and {**module._parameters, **module._modules} == parts


def test_a_forward_that_was_replaced_before_is_left():
    model = tiny.model()
    model.model.norm.forward = lambda x: x
    fitted = layers.install(model, wanted={'norm'})
    assert fitted.switches[0].count == 4 and 'replaced before' in fitted.left['model.norm']


def test_two_models_of_one_family_are_switched_apart():
    fast, slow = tiny.model(dtype='bfloat16'), tiny.model(dtype='bfloat16')
    ids = torch.arange(30)[None]
    before = slow(input_ids=ids).logits
    layers.install(fast, wanted={'rotary'})
    assert not torch.equal(fast(input_ids=ids).logits, before)  # other roundings: the kernel is at work
    assert torch.equal(slow(input_ids=ids).logits, before)


def twice(q, k, cos, sin):
    return tuple(x * cos[:, None] * 2 + x.roll(1, -1) * sin[:, None] for x in (q, k))


def test_another_kind_of_rotary_is_left(monkeypatch):
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, 'apply_rotary_pos_emb', twice)
    fitted = layers.install(tiny.model(), wanted={'rotary'})
    assert fitted.switches == [] and 'does not compute rotary' in fitted.left['model.layers.0.self_attn']


@pytest.mark.parametrize('activation', ['silu', 'gelu', 'gelu_pytorch_tanh'])
def test_the_activation_is_found_by_trial(activation):
    model = tiny.model('llama', hidden_act=activation)
    ids = torch.arange(9)[None]
    before = model(input_ids=ids).logits
    assert layers.install(model, wanted={'gated'}).left == {}
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_an_activation_without_a_kernel_is_left():
    fitted = layers.install(tiny.model('llama', hidden_act='relu'), wanted={'gated'})
    assert fitted.switches == [] and len(fitted.left) == 2
