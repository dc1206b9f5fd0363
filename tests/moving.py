"""Tiny models whose rotary angles depend on the length of a sequence, beyond 32 tokens; and some whose do not."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tests import tiny

ORIGINAL = 32
STRETCHED = {'max_position_embeddings': 8 * ORIGINAL}
SCALED = {'rope_theta': 10000.0, 'factor': 4.0}
LONG = {
    'rope_theta': 10000.0,
    'rope_type': 'longrope',
    'original_max_position_embeddings': ORIGINAL,
    'short_factor': [1.0, 1.1, 1.2, 1.3],
    'long_factor': [1.0, 3.0, 8.0, 16.0],
}
EXPERTS = {'num_local_experts': 2, 'num_experts_per_tok': 1}
MOVING = {
    'dynamic': ('llama', {'max_position_embeddings': ORIGINAL, 'rope_parameters': {**SCALED, 'rope_type': 'dynamic'}}),
    'longrope': ('llama', {**STRETCHED, 'rope_parameters': LONG}),  # an answer keeps the keys it has
    'phi3': ('phi3', {**STRETCHED, 'original_max_position_embeddings': ORIGINAL, 'rope_parameters': LONG}),
    'phimoe': (
        'phimoe',
        {
            **STRETCHED,
            **EXPERTS,
            'original_max_position_embeddings': ORIGINAL,
            'rope_parameters': {**LONG, 'short_mscale': 1.1, 'long_mscale': 1.3},
        },
    ),
}
STILL = {
    'yarn': {'rope_type': 'yarn', 'original_max_position_embeddings': ORIGINAL},
    'linear': {'rope_type': 'linear'},
    'llama3': {
        'rope_type': 'llama3',
        'low_freq_factor': 1.0,
        'high_freq_factor': 4.0,
        'original_max_position_embeddings': ORIGINAL,
    },
}


def model(name: str, *, dtype: str = 'float32'):
    """A random model of this kind whose greedy answers are no loop over one token."""
    architecture, changes = MOVING.get(name) or ('llama', {**STRETCHED, 'rope_parameters': {**SCALED, **STILL[name]}})
    config = tiny.config(architecture, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        for parameter in made.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return made


def text(count: int, seed: int) -> list[int]:
    """Token ids."""
    return [3 + (i * 7919 * seed + 13 * seed) % 390 for i in range(count)]


class Foreign(LlamaForCausalLM):
    """A model as a checkpoint's own code may have it: its angles are chosen in a way that nobody knows."""


def foreign() -> Foreign:
    """One whose positions shrink when the longest of a batch is beyond ORIGINAL."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = Foreign(tiny.config('llama')).eval()
        for parameter in made.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    own = made.model.rotary_emb.forward

    def shrunk(x, position_ids):
        return own(x, position_ids / 4 if position_ids.max() >= ORIGINAL else position_ids)

    made.model.rotary_emb.forward = shrunk
    return made
