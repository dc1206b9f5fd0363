"""What is known of a model from its folder alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from swift import models
from swift.core.errors import ConfigError, ModelError
from swift.models import info
from swift.models.args import ModelArgs


def edit(folder, name='config.json', **changes):
    """Change keys of a JSON file; None removes one."""
    path = folder / name
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def without_template(folder):
    (folder / 'chat_template.jinja').unlink()


def describe(folder, **flags):
    return models.describe(ModelArgs(model=str(folder), **flags))


# ---------------------------------------------------------------------------------------------------------- facts
def test_a_description_has_the_facts_of_config_and_headers(folder):
    found = describe(folder)
    assert (found.path, found.id, found.architecture) == (folder, str(folder), 'LlamaForCausalLM')
    assert (found.model_type, found.dtype, found.max_model_len) == ('llama', 'float32', 2048)
    assert found.parameters == 2 * 400 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32


def test_a_description_imports_neither_torch_nor_transformers(folder):
    code = (
        'import sys; from swift import models; from swift.models.args import ModelArgs;'
        'models.describe(ModelArgs(model=sys.argv[1]));'
        'print([name for name in ("torch", "transformers") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize(
    ('config', 'flag', 'dtype'),
    [
        ({'dtype': 'bfloat16'}, None, 'bfloat16'),
        ({'dtype': None, 'torch_dtype': 'float16'}, None, 'float16'),
        ({'dtype': 'torch.float16'}, None, 'float16'),
        ({'dtype': 'bfloat16'}, 'float32', 'float32'),
        ({'dtype': None, 'text_config': {'dtype': 'float16'}}, None, 'float16'),
        ({'dtype': 'float8_e4m3fn'}, None, 'bfloat16'),
    ],
)
def test_the_dtype_is_the_flag_or_that_of_the_config(folder, config, flag, dtype):
    edit(folder, **config)
    assert describe(folder, torch_dtype=flag).dtype == dtype


def test_a_config_without_dtype_is_loaded_in_what_the_device_computes_well(folder, monkeypatch):
    import torch

    edit(folder, dtype=None)
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: False)
    assert describe(folder).dtype == 'float32'
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    assert describe(folder).dtype == 'bfloat16'
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    assert describe(folder).dtype == 'float16'


YARN = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32768}


@pytest.mark.parametrize(
    ('text', 'length'),
    [
        ({'max_position_embeddings': 4096}, 4096),
        ({'n_positions': 1024, 'n_ctx': 1024}, 1024),
        ({'seq_length': 8192}, 8192),
        ({'model_max_length': 4096, 'max_position_embeddings': 2048}, 2048),
        ({'max_position_embeddings': 32768, 'rope_scaling': YARN}, 131072),
        ({'max_position_embeddings': 131072, 'rope_parameters': {**YARN, 'factor': 2.0}}, 131072),
        ({'max_position_embeddings': 16384, 'rope_scaling': {'type': 'linear', 'factor': 4.0}}, 16384),
        ({'max_position_embeddings': 32768, 'rope_parameters': {'full_attention': YARN}}, 131072),
        ({}, info.NO_LIMIT),
    ],
)
def test_the_longest_sequence_is_read_from_the_right_key(text, length):
    assert info.max_length(text) == length


def test_a_multimodal_config_is_read_in_its_text_part():
    config = {'max_position_embeddings': 10, 'text_config': {'max_position_embeddings': 20}}
    assert info.max_length(info.text_part(config)) == 20


@pytest.mark.parametrize('name', ['tokenizer_config.json', 'chat_template.json'])
@pytest.mark.parametrize('several', [False, True])
def test_a_chat_template_is_found_wherever_it_lies(folder, name, several):
    without_template(folder)
    assert info.chat_template(folder) is None
    text = 'hello {{ enable_thinking }}'
    (folder / name).touch()
    (folder / name).write_text('{}')
    edit(folder, name, chat_template=[{'name': 'default', 'template': text}] if several else text)
    assert info.chat_template(folder) == text
    assert describe(folder).thinking


# -------------------------------------------------------------------------------------------------------- families
def test_an_id_chooses_the_family_whatever_its_case(folder):
    renamed = folder.rename(folder.with_name('META-llama-3-8b'))
    assert describe(renamed).template == 'llama3'


def test_the_flag_chooses_the_family(folder):
    assert describe(folder, model_type='yi').model_type == 'yi'


def test_the_args_of_a_run_beside_the_weights_choose_the_family(folder):
    (folder / 'args.json').write_text('{"model_type": "yi"}')
    assert describe(folder).model_type == 'yi'


def test_an_architecture_of_one_family_is_enough(folder):
    edit(folder, model_type='qwen3', architectures=['Qwen3ForCausalLM'])
    assert describe(folder).model_type == 'qwen3'


def test_families_that_differ_in_nothing_that_matters_need_no_flag(folder):
    edit(folder, model_type='chatglm', architectures=['ChatGLMModel'])
    assert describe(folder).model_type.startswith('chatglm')


def test_families_with_other_templates_need_the_flag_when_the_checkpoint_brings_none(folder, monkeypatch):
    one, two = (
        info.catalog.Family(name, ('TwoForCausalLM',), (), template=name) for name in ('first_type', 'second_type')
    )
    monkeypatch.setattr(info.catalog, 'families', lambda: (one, two))
    edit(folder, architectures=['TwoForCausalLM'])
    assert describe(folder).model_type == 'first_type'
    without_template(folder)
    with pytest.raises(ConfigError, match='give --model_type, one of first_type, second_type'):
        describe(folder)
    assert describe(folder, model_type='second_type').template == 'second_type'


def test_an_unknown_architecture_just_runs(folder):
    edit(folder, model_type='brand_new', architectures=['BrandNewForCausalLM'])
    without_template(folder)
    found = describe(folder)
    assert (found.model_type, found.template, found.thinking) == ('brand_new', None, False)


# ---------------------------------------------------------------------------------------------------------- errors
def test_no_model_is_a_config_error():
    with pytest.raises(ConfigError, match='--model is missing'):
        models.describe(ModelArgs())


def test_a_folder_without_config_says_what_it_has(folder):
    (folder / 'config.json').unlink()
    with pytest.raises(ModelError, match=r'no config\.json, so no model; has .*model\.safetensors'):
        describe(folder)


def test_an_adapter_is_told_from_a_model(tmp_path):
    (tmp_path / 'adapter_config.json').write_text('{}')
    with pytest.raises(ModelError, match='an adapter, not a model: give --adapters'):
        describe(tmp_path)


def test_several_gguf_files_must_be_chosen_from(tmp_path):
    for name in ('a.gguf', 'b.gguf'):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r'2 GGUF files, a\.gguf, b\.gguf'):
        describe(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[1]'])
def test_a_broken_config_is_named(folder, text):
    (folder / 'config.json').write_text(text)
    with pytest.raises(ModelError, match=r'config\.json'):
        describe(folder)


def test_a_file_that_is_no_gguf_is_no_model(folder):
    with pytest.raises(ModelError, match=r'a model is a folder with config\.json, or a \.gguf file'):
        describe(folder / 'model.safetensors')
