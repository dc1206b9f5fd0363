"""A step of an objective on a random model of two layers, by the backend that trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn

from swift.core.types import Builder, ModelInfo, Readout
from swift.objectives import trial
from swift.objectives.entry import Method
from swift.parallel import reference
from swift.parallel.one_device import TorchBackend
from swift.parallel.settings import Settings
from swift.parallel.teacher import Teacher
from swift.verify.finding import Finding
from swift.verify.formulas import PART, divergence, objective, place, rows_of
from swift.verify.layouts import Distance, Step

EXACT = 'GPT2', 'float64', 1e-10
"""Where layouts are compared: with nothing in it that rounds to float32, as the norms of a Llama do."""
FAST = 'Llama', 'float32', 1e-4
"""Where kernels are compared: with a place for each of them, in a type that they take."""
SIZES = {
    'GPT2': {'n_embd': 32, 'n_head': 4, 'n_layer': 2, 'resid_pdrop': 0.0, 'embd_pdrop': 0.0, 'attn_pdrop': 0.0},
    'Llama': {
        'hidden_size': 32, 'intermediate_size': 64, 'num_hidden_layers': 2, 'num_attention_heads': 4,
        'num_key_value_heads': 2,
    },
}  # fmt: skip
HEADS = {'head': 'ForSequenceClassification', 'pooled': 'Model'}
LANGUAGE = {'GPT2': 'LMHeadModel', 'Llama': 'ForCausalLM'}


def check(name: str, method: Method) -> Iterator[Finding]:
    """How far the step of a method is from itself when it is laid out in other ways."""
    for (*model, allowed), ways in ((EXACT, Step.layouts), (FAST, _packed)):
        for what, far in ways(step(method, *model)):
            difference, note = float(np.max([far.gradient, 100 * far.loss])), f'most in {far.where}'
            shown = {'part': PART, 'name': name, 'what': what, 'place': place(method.code), 'note': note}
            yield Finding(difference=difference, allowed=allowed, **shown)


def _packed(made: Step) -> Iterator[tuple[str, Distance]]:
    """Packed attention alone, and with all kernels."""
    yield 'packing', made.packing()
    yield 'all kernels', made.together()


def step(method: Method, family: str, dtype: str) -> Step:
    """A step of the method's rows, with the flags that it is tried with last."""
    made = objective(method, method.tried[-1])
    settings = Settings(max_length=64, max_grad_norm=0, kernel_check='off', step_in_backward=False)
    build = lambda seed: _builder(family, dtype, seed, method)
    backend = _backend(build(0), settings)
    compared = reference.frozen(build(1), settings) if 'ref_logps' in made.needs else None
    if how := divergence(method, method.tried[-1]):
        backend.runner.teacher = Teacher(reference.frozen_runner(build(1), settings).predictions, how)
    return Step(backend, made, compared, rows_of(method))


def _backend(builder: Builder, settings: Settings) -> TorchBackend:
    return TorchBackend(
        builder,
        settings,
        optimizer=lambda model, masters: torch.optim.SGD([{'params': list(masters.values()), 'peak': 1e-3}], lr=1e-3),
        schedule=lambda step: 1.0,
        write_model=lambda model, folder: None,
    )


def _builder(family: str, dtype: str, seed: int, method: Method) -> Builder:
    """A model of random weights, with the head that the method reads."""
    size = dict.fromkeys(('pad_token_id', 'bos_token_id', 'eos_token_id')) | SIZES[family]
    config = getattr(transformers, f'{family}Config')(**size, vocab_size=trial.VOCABULARY, num_labels=method.scores)
    head = HEADS.get(method.reads or 'tokens') or LANGUAGE[family]

    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = getattr(transformers, f'{family}{head}')._from_config(config, dtype=getattr(torch, dtype))
            for weight in model.parameters():  # so large that the model is sure of something
                if weight.dim() > 1:
                    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        return model

    info = ModelInfo(Path(), 'tiny', family, '', dtype, 64, config=config)
    words = (trial.YES, trial.NO) if method.reads == 'tokens' else ()
    return Builder(info, None, build, Readout(method.reads, words) if method.reads else None)
