"""Adapters in fused groups, and the model without them: the numbers that peft and the published model give."""

import pytest
import torch

from swift.kernels import product as products
from swift.tuners import fused
from swift.tuners.args import TunerArgs
from swift.tuners.lora import attach
from tests import tiny
from tests.tuners.test_lora import IDS, logits, nudged


@pytest.fixture(params=['torch', 'tiles'])
def products_by(request, monkeypatch):
    """Who multiplies: the tiny shapes here would all be left to torch."""
    if request.param == 'torch':
        return
    if not products.runs():
        pytest.skip('this processor has no AMX tiles')
    monkeypatch.setattr(products, 'LEAST', 1)
    monkeypatch.setattr(products, 'CRAWLS', (0.0, 1e9))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)


def pair(dtype):
    """A tuned model in groups, and the same as peft runs it."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(nudged(attach(tiny.model().to(dtype), TunerArgs(lora_rank=4, lora_dropout=0.0))))
    return fused.install(made[0]), made[1]


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_groups_give_what_peft_gives_and_the_published_model_when_switched_off(products_by, dtype, tolerance):
    ours, theirs = pair(dtype)
    plain = logits(tiny.model().to(dtype))
    close = lambda a, b: float((a - b).float().norm()) <= tolerance * float(b.float().norm())
    assert close(logits(ours), logits(theirs))
    with ours.disable_adapter():
        assert close(logits(ours), plain)
        found = ours(input_ids=IDS, use_cache=False).logits  # with a gradient peft's own way is taken
    assert close(found.detach(), plain)
    assert close(logits(ours), logits(theirs))
    assert not close(logits(ours), plain)
