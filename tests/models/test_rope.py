"""Longer positions: the parameters that transformers gets, and the length that follows."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig

from swift import models
from swift.core.errors import ConfigError, ModelError
from swift.models import rope
from swift.models.args import ModelArgs
from tests import tiny


@pytest.fixture
def config():
    made = tiny.config('llama', max_position_embeddings=4096)
    made.rope_parameters['rope_theta'] = 500_000.0
    return made


@pytest.mark.parametrize('kind', ['linear', 'dynamic', 'yarn'])
@pytest.mark.parametrize(('length', 'factor'), [(16384, 4.0), (10000, 3.0), (2048, 1.0)])
def test_the_factor_follows_from_the_length(config, kind, length, factor):
    assert rope.scale_(config, kind, length) == length
    assert config.rope_parameters['rope_type'] == kind
    assert config.rope_parameters['factor'] == factor
    assert config.rope_parameters['rope_theta'] == 500_000.0
    assert config.max_position_embeddings == 4096


def test_the_length_follows_from_the_factor(config):
    assert rope.scale_(config, '{"rope_type": "yarn", "factor": 2.0, "beta_fast": 16}', None) == 8192
    assert config.rope_parameters['original_max_position_embeddings'] == 4096
    assert config.rope_parameters['beta_fast'] == 16


def test_the_old_name_of_the_type_is_read(config):
    rope.scale_(config, '{"type": "linear", "factor": 2}', None)
    assert config.rope_parameters['rope_type'] == 'linear'


def test_a_model_that_is_scaled_already_starts_from_its_original_length(config):
    rope.scale_(config, 'yarn', 8192)
    rope.scale_(config, 'yarn', 16384)
    assert config.rope_parameters['factor'] == 4.0


def test_only_the_layers_that_see_everything_are_scaled():
    config = AutoConfig.for_model('gemma3_text', max_position_embeddings=4096)
    before = dict(config.rope_parameters['sliding_attention'])
    rope.scale_(config, 'linear', 8192)
    assert config.rope_parameters['full_attention']['factor'] == 2.0
    assert config.rope_parameters['sliding_attention'] == before


@pytest.mark.parametrize('scaling', ['yarm', '{"factor": 2}', '{', '[]', '3'])
def test_what_is_no_scaling_is_refused(config, scaling):
    with pytest.raises(ConfigError, match='expected linear, dynamic, yarn, or JSON'):
        rope.scale_(config, scaling, 8192)


def test_a_scaling_without_length_and_factor_is_refused(config):
    with pytest.raises(ConfigError, match='give --max_model_len too'):
        rope.scale_(config, 'yarn', None)


def test_learned_positions_are_not_scaled():
    with pytest.raises(ModelError, match='no rotary positions'):
        rope.scale_(tiny.config('gpt2'), 'linear', 4096)


def test_learned_positions_end_with_their_table():
    with pytest.raises(ConfigError, match='--max_model_len 4096: a model of type gpt2 has 1024 positions'):
        rope.scale_(tiny.config('gpt2'), None, 4096)


def test_rotary_positions_go_on_with_a_warning(config, log):
    assert rope.scale_(config, None, 8192) == 8192
    assert 'made for 4096 positions; --rope_scaling yarn' in log.text


def test_a_scaled_model_loads_and_says_its_length(folder):
    plain = models.load(ModelArgs(model=str(folder))).build()
    builder = models.load(ModelArgs(model=str(folder), rope_scaling=json.dumps({'type': 'linear', 'factor': 2.0})))
    scaled = builder.build()
    assert builder.info.max_model_len == 4096
    positions = torch.arange(9)[None]
    # The mask keeps transformers from taking positions with gaps for packed sequences.
    inputs = {'input_ids': positions + 5, 'attention_mask': torch.ones_like(positions), 'use_cache': False}
    with torch.no_grad():  # linear scaling by 2 at doubled positions is the plain model
        one = plain(**inputs, position_ids=positions).logits
        two = scaled(**inputs, position_ids=positions * 2).logits
    assert torch.allclose(one, two, atol=1e-5)
