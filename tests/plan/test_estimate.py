"""The estimate of a run that was not rehearsed: what follows from shapes is exact, the rest has the right order."""

import pytest

from swift.plan.estimate import Run, estimate
from swift.plan.predict import GRADIENTS, LOAD, MASTERS, OPTIMIZER, STEP, WEIGHTS
from swift.plan.work import Shape, Work
from tests import tiny

WORK = Work(((Shape((512, 512), 1022),),))


def config(**changes):
    """A small llama's config and its number of parameters without norms."""
    import torch
    from transformers import AutoModelForCausalLM

    made = tiny.config('llama', **changes)
    with torch.device('meta'):
        model = AutoModelForCausalLM.from_config(made)
    return made.to_dict(), sum(p.numel() for name, p in model.named_parameters() if 'norm' not in name)


@pytest.mark.parametrize('tied', [True, False])
def test_weights_and_what_training_adds_to_them_are_counted(tied):
    text, parameters = config(tie_word_embeddings=tied)
    owners = estimate(text, Run('bfloat16', rank=0), WORK, base=0).owners
    assert owners[WEIGHTS] == 2 * parameters
    assert (owners[MASTERS], owners[GRADIENTS], owners[OPTIMIZER]) == (4 * parameters, 4 * parameters, 8 * parameters)


def test_full_precision_has_no_copies_and_adapters_learn_little():
    text, parameters = config()
    assert estimate(text, Run('float32', rank=0), WORK, base=0).owners[MASTERS] == 0
    lora = estimate(text, Run('bfloat16', rank=4), WORK, base=0).owners
    per_layer = 4 * (32 + 32) + 2 * 4 * (32 + 16) + 4 * (32 + 32) + 3 * 4 * (32 + 64)
    assert lora[GRADIENTS] == 4 * 2 * per_layer
    assert lora[WEIGHTS] == 2 * parameters


def test_recomputation_and_quantisation_take_less():
    text, _ = config(num_hidden_layers=8)
    plain = estimate(text, Run(), WORK, base=10**6)
    assert estimate(text, Run(recompute=True), WORK, base=10**6).phases[STEP] < plain.phases[STEP]
    assert estimate(text, Run(bits=4), WORK, base=10**6).owners[WEIGHTS] < plain.owners[WEIGHTS]
    assert plain.phases[LOAD] > 10**6
    assert not plain.measured
