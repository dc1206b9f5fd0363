"""From a folder to a model in memory."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from swift import models
from swift.core import files
from swift.core.errors import ConfigError, CorruptError, ModelError
from swift.models.args import ModelArgs
from tests import tiny
from tests.models import architectures
from tests.models.test_info import edit


def load(folder, **flags):
    return models.load(ModelArgs(model=str(folder), **flags))


@torch.no_grad()
def logits(model, length=9):
    return model(input_ids=torch.arange(length)[None] + 5, use_cache=False).logits


# ---------------------------------------------------------------------------------------------------- any model
@pytest.mark.parametrize('architecture', architectures.ALL)
def test_any_architecture_loads_from_a_plain_folder(architecture, tmp_path):
    folder = architectures.folder(tmp_path / 'unknown-name', architecture)
    builder = load(folder)
    model = builder.build()
    saved = load_file(folder / 'model.safetensors')
    assert not model.training
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items() if name in saved)
    assert builder.info.config.model_type == architecture
    assert builder.tokenizer('Hello').input_ids
    assert torch.isfinite(logits(model)).all()


def test_nothing_is_in_memory_before_build_and_every_build_is_the_same(folder):
    builder = load(folder)
    first, second = builder.build(), builder.build()
    assert first is not second
    assert torch.equal(logits(first), logits(second))


def test_the_length_of_a_silent_config_is_the_default_of_its_class(tmp_path):
    folder = architectures.folder(tmp_path / 'falcon', 'falcon')
    edit(folder, max_position_embeddings=None)
    assert load(folder).info.max_model_len == 2048


def test_max_model_len_is_a_limit(folder):
    assert load(folder, max_model_len=100).info.max_model_len == 100


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_weights_come_in_the_type_asked_for(folder, dtype):
    assert load(folder, torch_dtype=dtype).build().dtype == getattr(torch, dtype)


def test_pickled_weights_of_old_checkpoints_load(folder):
    torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')
    expected = logits(load(folder).build())
    (folder / 'model.safetensors').unlink()
    assert torch.equal(logits(load(folder).build()), expected)


# ------------------------------------------------------------------------------------------------ how it is loaded
@pytest.mark.parametrize('name', ['eager', 'sdpa'])
def test_the_attention_asked_for_is_taken(folder, name):
    assert load(folder, attn_impl=name).build().config._attn_implementation == name


def test_an_attention_that_is_not_installed_becomes_sdpa_and_is_said(folder, monkeypatch, log):
    monkeypatch.setattr('transformers.utils.is_flash_attn_2_available', lambda: False)
    assert load(folder, attn_impl='flash_attn').build().config._attn_implementation == 'sdpa'
    assert 'flash_attn: not installed here, taking sdpa' in log.text


def test_an_unknown_attention_is_refused_with_the_nearest_name(folder):
    with pytest.raises(ConfigError, match='--attn_impl flash_atn: unknown; did you mean flash_attn'):
        load(folder, attn_impl='flash_atn')


@pytest.mark.parametrize('value', ['cpu', '{"": "cpu"}', {'': 'cpu'}, 'FILE'])
def test_a_device_map_is_a_word_or_json_or_a_file(folder, tmp_path, value):
    path = tmp_path / 'map.json'
    path.write_text('{"": "cpu"}')
    model = load(folder, device_map=str(path) if value == 'FILE' else value).build()
    assert model.device == torch.device('cpu')


@pytest.mark.parametrize('flags', [{'device_map': '{"": '}, {'device_map': 'none.json'}, {'max_memory': 'much'}])
def test_values_that_are_no_json_are_refused(folder, flags):
    with pytest.raises(ConfigError, match=f'--{next(iter(flags))} '):
        load(folder, **flags)


def test_max_memory_counts_devices_by_number(folder):
    model = load(folder, device_map='auto', max_memory='{"cpu": "2GB"}').build()
    assert torch.isfinite(logits(model)).all()


# ------------------------------------------------------------------------------------------------------- what fails
def change_weights(folder, change):
    path = folder / 'model.safetensors'
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={'format': 'pt'})


def test_a_weight_that_is_missing_is_never_random(folder):
    change_weights(folder, lambda tensors: tensors.pop('model.layers.1.mlp.up_proj.weight'))
    with pytest.raises(ModelError, match=r'1 weights are not in the files.*model\.layers\.1\.mlp\.up_proj\.weight'):
        load(folder).build()


def test_a_weight_of_another_shape_is_refused(folder):
    edit(folder, intermediate_size=48)
    with pytest.raises(ModelError, match='the weights cannot be loaded'):
        load(folder).build()


def test_a_weight_that_is_not_used_is_said(folder, log):
    change_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(3)))
    load(folder).build()
    assert '1 weights are not used: extra' in log.text


def test_a_flipped_bit_in_a_folder_that_swift_wrote_is_found(written, tmp_path):
    final = tmp_path / 'committed'
    with files.commit(final) as temp:
        for path in written.iterdir():
            (temp / path.name).write_bytes(path.read_bytes())
    load(final)
    path = final / 'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r'model\.safetensors has other bytes.*delete .*manifest\.json'):
        load(final)


def test_a_model_that_is_no_language_model_is_refused(folder):
    edit(folder, model_type='bert', architectures=['BertForMaskedLM'])
    with pytest.raises(ModelError, match='BertForMaskedLM is not a causal language model'):
        load(folder)


def test_a_multimodal_model_is_refused_by_name(folder):
    edit(folder, model_type='llava', architectures=['LlavaForConditionalGeneration'])
    with pytest.raises(
        ModelError, match='LlavaForConditionalGeneration is multimodal: its folder has no preprocessor_config'
    ):
        load(folder)


def test_a_type_that_transformers_does_not_know_is_named(folder):
    edit(folder, model_type='brand_new', architectures=['BrandNewForCausalLM'])
    with pytest.raises(ModelError, match='brand_new'):
        load(folder)


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class StrangeConfig(LlamaConfig):
    model_type = 'strange'
class StrangeForCausalLM(LlamaForCausalLM):
    config_class = StrangeConfig
"""


def test_remote_code_runs_only_when_it_is_trusted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('transformers.dynamic_module_utils.HF_MODULES_CACHE', str(tmp_path / 'modules'))
    marker = tmp_path / 'it ran'
    (folder / 'strange.py').write_text(CODE.format(marker=str(marker)))
    auto_map = {'AutoConfig': 'strange.StrangeConfig', 'AutoModelForCausalLM': 'strange.StrangeForCausalLM'}
    edit(folder, model_type='strange', architectures=['StrangeForCausalLM'], auto_map=auto_map)
    with pytest.raises(ModelError, match='give --trust_remote_code true'):
        load(folder)
    assert not marker.exists()
    assert type(load(folder, trust_remote_code=True).build()).__name__ == 'StrangeForCausalLM'
    assert marker.exists()


def test_a_model_with_a_class_in_transformers_needs_none_of_its_own(folder, tmp_path):
    marker = tmp_path / 'it ran'
    (folder / 'strange.py').write_text(CODE.format(marker=str(marker)))
    edit(folder, auto_map={'AutoModelForCausalLM': 'strange.StrangeForCausalLM'})
    assert type(load(folder).build()).__name__ == 'LlamaForCausalLM'
    assert not marker.exists()


def test_a_tokenizer_alone_is_enough_to_look_at_data(folder):
    for name in ('config.json', 'model.safetensors', 'generation_config.json'):
        (folder / name).unlink()
    builder = models.outline(ModelArgs(model=str(folder), new_special_tokens=['<tool>']))
    assert builder.tokenizer('<tool>').input_ids == [400]
    with pytest.raises(ModelError, match='only its tokenizer was looked at'):
        builder.build()


# ---------------------------------------------------------------------------------------------------- from notebooks
def test_the_established_function_gives_model_and_tokenizer(folder):
    model, tokenizer = models.get_model_processor(str(folder), torch_dtype=torch.bfloat16, attn_impl='eager')
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, 'eager')
    assert tokenizer.decode(tokenizer('Hello').input_ids) == 'Hello'


def test_the_established_function_can_leave_the_model_out(folder):
    model, tokenizer = models.get_model_processor(str(folder), load_model=False)
    assert model is None
    assert tokenizer.get_vocab() == models.get_processor(str(folder)).get_vocab()


def test_more_arguments_reach_transformers(folder):
    model, _ = models.get_model_processor(str(folder), model_kwargs={'key_mapping': None, 'use_safetensors': True})
    assert torch.equal(logits(model), logits(tiny.model()))


ESTABLISHED = """
model_id_or_path torch_dtype device_map load_model use_hf hub_token revision model_type quantization_config max_memory
attn_impl rope_scaling max_model_len new_special_tokens task_type num_labels model_kwargs download_model
"""


def test_the_names_of_its_arguments_are_the_established_ones():
    names = set(inspect.signature(models.get_model_processor).parameters)
    assert set(ESTABLISHED.split()) <= names


def test_established_arguments_of_what_is_not_built_yet_are_refused_by_name(folder):
    with pytest.raises(ConfigError, match='return_dummy_model is not built yet'):
        models.get_model_processor(str(folder), return_dummy_model=True)
    with pytest.raises(ConfigError, match='unknown argument auto_model_clss; did you mean auto_model_cls'):
        models.get_model_processor(str(folder), auto_model_clss='regression')
    assert models.get_model_processor(str(folder), load_model=False, download_model=True, auto_model_cls=None)[1]


def test_a_config_that_is_broken_for_transformers_is_a_model_error(folder):
    edit(folder, num_attention_heads='four')
    with pytest.raises(ModelError, match='not a config that transformers knows'):
        load(folder)
    assert json.loads((folder / 'config.json').read_text())['num_attention_heads'] == 'four'
