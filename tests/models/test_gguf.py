"""GGUF files become plain folders, once."""

from __future__ import annotations

import hashlib
import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from swift import models
from swift.core import files
from swift.core.errors import ModelError
from swift.models.args import ModelArgs
from tests import tiny
from tests.models.make_gguf import write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'gguf'


def load(path, **flags):
    return models.load(ModelArgs(model=str(path), **flags))


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.arange(9)[None] + 5, use_cache=False).logits


def test_floats_keep_every_number(tmp_path):
    builder = load(write(tmp_path / 'tiny.gguf'))
    model = builder.build()
    source = tiny.model('llama', hidden_size=64, intermediate_size=128, head_dim=16)
    assert builder.info.dtype == 'float32'
    assert torch.equal(logits(model), logits(source))


def test_blocks_become_bfloat16_near_the_numbers_they_came_from(tmp_path):
    builder = load(write(tmp_path / 'tiny.gguf', quantise=gguf.GGMLQuantizationType.Q8_0))
    model = builder.build()
    source = tiny.model('llama', hidden_size=64, intermediate_size=128, head_dim=16)
    assert builder.info.dtype == 'bfloat16'
    for name, value in source.state_dict().items():
        assert (model.state_dict()[name].float() - value).norm() <= 0.02 * value.norm(), name


def test_the_tokenizer_its_template_and_the_end_token_survive(tmp_path):
    builder = load(write(tmp_path / 'tiny.gguf'))
    expected = tiny.tokenizer()
    text = '<|im_start|>Who are you? 12 + 30 = 42 你好\n'
    assert builder.tokenizer(text).input_ids == expected(text).input_ids
    assert builder.tokenizer.chat_template == tiny.CHATML
    assert builder.tokenizer.eos_token == '<|im_end|>'
    assert builder.build().generation_config.eos_token_id == 2


def test_the_result_is_a_plain_folder_with_a_manifest(tmp_path, cache):
    path = load(write(tmp_path / 'tiny.gguf')).info.path
    assert path.parent == cache
    facts = files.verify(path).facts
    assert facts['source'] == 'tiny.gguf'
    assert facts['source_sha256'] == hashlib.sha256((tmp_path / 'tiny.gguf').read_bytes()).hexdigest()
    assert 'quantization_config' not in json.loads((path / 'config.json').read_text())
    assert torch.isfinite(logits(AutoModelForCausalLM.from_pretrained(path))).all()


def test_the_same_content_is_unpacked_once_wherever_it_lies(tmp_path, monkeypatch):
    path = write(tmp_path / 'tiny.gguf')
    first = load(path).info.path
    monkeypatch.setattr('swift.models.gguf._unpack', lambda *_: pytest.fail('unpacked again'))
    folder = tmp_path / 'folder with only that'
    folder.mkdir()
    shutil.copy(path, folder / 'tiny.gguf')
    assert load(folder).info.path == first


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / 'x.gguf').write_bytes(b'nothing of the kind')
    with pytest.raises(ModelError, match=r'x\.gguf: not a GGUF file'):
        load(tmp_path / 'x.gguf')


@pytest.mark.parametrize('keep', [4, 20, 300, 9000, -50_000])
def test_a_file_that_was_cut_off_leaves_nothing_in_the_cache(tmp_path, cache, keep):
    path = write(tmp_path / 'tiny.gguf')
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match='transformers cannot read this GGUF file'):
        load(path)
    assert not cache.exists() or not list(cache.iterdir())


def test_one_part_of_several_is_refused(tmp_path):
    path = write(tmp_path / 'tiny-00001-of-00002.gguf')
    with pytest.raises(ModelError, match='one part of a split GGUF file'):
        load(path)


# ------------------------------------------------------------------------------------------------------ positions
def llama3_factors(factor: float) -> np.ndarray:
    """What llama.cpp stores for Llama 3's scaling of 8 frequencies."""
    config = LlamaConfig(head_dim=16, hidden_size=64, num_attention_heads=4)
    plain, _ = ROPE_INIT_FUNCTIONS['linear'](LlamaConfig(**config.to_dict() | {'rope_parameters': rope('linear', 1.0)}))
    parameters = rope(
        'llama3', factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
    )
    scaled, _ = ROPE_INIT_FUNCTIONS['llama3'](LlamaConfig(**config.to_dict() | {'rope_parameters': parameters}))
    return (plain / scaled).numpy()


def rope(kind: str, factor: float, **more) -> dict:
    return {'rope_type': kind, 'rope_theta': 10_000.0, 'factor': factor, **more}


def test_the_scaling_of_llama_3_is_carried_over(tmp_path):
    factors = llama3_factors(8.0)
    assert factors.max() == pytest.approx(8.0) and factors.min() == 1.0
    found = load(write(tmp_path / 'tiny.gguf', rope_freqs__weight=factors)).info.config.rope_parameters
    assert (found['rope_type'], found['factor'], found['original_max_position_embeddings']) == ('llama3', 8.0, 8192)


def test_another_rule_than_llama_3s_is_refused(tmp_path):
    with pytest.raises(ModelError, match="another rule than Llama 3's"):
        load(write(tmp_path / 'tiny.gguf', rope_freqs__weight=np.linspace(1, 8, 8, dtype=np.float32)))


def test_a_scaling_in_the_metadata_is_carried_over(tmp_path):
    scaling = {'type': 'yarn', 'factor': 4.0, 'original_context_length': 2048}
    info = load(write(tmp_path / 'tiny.gguf', scaling=scaling)).info
    assert info.config.rope_parameters['rope_type'] == 'yarn'
    assert info.max_model_len == 8192


def test_a_scaling_that_cannot_be_carried_over_is_refused(tmp_path):
    with pytest.raises(ModelError, match='scaled by longrope: use the safetensors'):
        load(write(tmp_path / 'tiny.gguf', scaling={'type': 'longrope', 'factor': 4.0}))
