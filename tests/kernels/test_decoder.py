"""The decoder gives what the model gives, and a row's numbers do not depend on the rows beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from swift.kernels import blueprint, flash
from swift.kernels.decoder import PAGE, ROWS, Rows, up
from tests import tiny

IDS = torch.tensor([7 + i * 53 % 390 for i in range(150)])
FITTING = ('llama', 'qwen2', 'qwen3', 'mistral', 'gemma2')


def lively(architecture: str, dtype: str = 'float32', **changes):
    """A tiny model with weights large enough for attention to matter."""
    model = tiny.model(architecture, **changes)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(getattr(torch, dtype))


def drawn(model, pages: int = 16):
    return blueprint.draw(model, longest=512, pages=lambda size: pages)


def laid(parts: list[tuple[int, int, list[int]]]) -> Rows:
    """Rows of sequences, (first position, tokens, pages) each, whose every row's logits are asked for."""
    owner, sequences, pages = [], [], []
    for at, (start, count, held) in enumerate(parts):
        sequences.append([len(owner), count, start, len(pages)])
        owner += [at] * count
        pages += held
    wanted = np.arange(len(owner))
    owner += [-1] * (-len(owner) % ROWS)
    ends = np.array([start + count for start, count, _ in parts])
    return Rows(np.array(owner), np.array(sequences), ends, np.array(pages, np.int32), wanted)


def step(decoder, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
    padded = F.pad(ids, (0, up(len(ids), ROWS) - len(ids)))
    return decoder.step(F.embedding(padded, decoder.is_.embedding.detach()), rows)


@pytest.mark.parametrize('architecture', FITTING)
def test_logits_are_those_of_the_model(architecture):
    model = lively(architecture)
    with torch.no_grad():
        wanted = model(IDS[None]).logits[0]
    found = step(drawn(model), IDS, laid([(0, len(IDS), list(range(5)))]))
    assert (found - wanted).norm() / wanted.norm() < 1e-5


@pytest.mark.parametrize('tiles', [True, False])
def test_bf16_is_as_near_to_fp32_as_the_model_itself_is(tiles, monkeypatch):
    monkeypatch.setattr(flash, 'TILES', tiles)
    exact, rounded = lively('llama'), lively('llama', 'bfloat16')
    with torch.no_grad():
        wanted, theirs = exact(IDS[None]).logits[0], rounded(IDS[None]).logits[0].float()
    ours = step(drawn(rounded), IDS, laid([(0, len(IDS), list(range(5)))]))
    assert (ours - wanted).norm() < 1.2 * (theirs - wanted).norm()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('architecture', ['qwen3', 'gemma2'])
def test_no_bit_depends_on_chunks_neighbours_or_pages(architecture, dtype):
    decoder = drawn(lively(architecture, dtype), 32)
    whole = step(decoder, IDS, laid([(0, 150, [0, 1, 2, 3, 4])]))
    there, other = [9, 8, 7, 6, 5], [10, 11, 12]
    spoilt = torch.full((160, decoder.is_.width), float('nan'), dtype=decoder.is_.dtype)
    decoder.step(spoilt, laid([(0, 160, there)]))  # what an earlier owner left
    found, at = [], 0
    for count in (1, 30, 2, 66, 1, 1, 49):
        rows = laid([(0, 20, other), (at, count, there)])
        ids = torch.cat([IDS[50:70], IDS[at : at + count]])
        found.append(step(decoder, ids, rows)[20:])
        at += count
    assert torch.equal(torch.cat(found), whole)


def test_a_sequence_of_nan_harms_no_other():
    model = lively('llama')
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = float('nan')
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num(0.1))
    decoder = drawn(model)
    ids = IDS[IDS != 9][:20]
    alone = step(decoder, ids, laid([(0, 20, [0])]))
    both = step(decoder, torch.cat([torch.full((5,), 9), ids]), laid([(0, 5, [1]), (0, 20, [0])]))
    assert both[:5].isnan().all()
    assert torch.equal(both[5:], alone)


def test_only_rows_that_are_asked_for_have_logits():
    decoder = drawn(lively('llama'))
    rows = laid([(0, 150, list(range(5)))])
    every = step(decoder, IDS, rows)
    some = step(decoder, IDS, replace(rows, wanted=np.array([149, 3])))
    assert torch.equal(some, every[[149, 3]])


def test_weights_are_taken_anew_when_asked():
    model, other = lively('llama'), lively('llama', seed=5)
    decoder = drawn(model)
    with torch.no_grad():
        for name, value in other.state_dict().items():
            model.state_dict()[name].copy_(value * 1.1)
        wanted = model(IDS[None, :PAGE]).logits[0]
    decoder.refresh()
    assert torch.allclose(step(decoder, IDS[:PAGE], laid([(0, PAGE, [0])])), wanted, atol=1e-4)


def test_models_that_are_something_else_say_why():
    replaced = tiny.model()
    replaced.forward = lambda *args, **kwargs: None
    for model, why in (
        (tiny.model('gpt2'), 'look its tokens up once'),
        (tiny.model(dtype='float64'), 'bf16 or all fp32'),
        (replaced, 'has been replaced'),
        (tiny.model(hidden_size=24, head_dim=8), 'multiples of 32'),
    ):
        with pytest.raises(blueprint.Misfit, match=why):
            drawn(model)


def test_a_layer_that_does_something_more_is_found_out():
    model = lively('llama')
    layer = model.model.layers[1]
    inner = layer.mlp.forward
    layer.mlp.forward = lambda x: inner(x) * 1.01
    with pytest.raises(blueprint.Misfit):
        drawn(model)
