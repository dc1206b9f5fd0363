"""A merged model is a plain transformers folder that answers as base and adapter do; anything else is refused."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from swift import models
from swift.core import files
from swift.core.errors import ConfigError, ModelError
from swift.export import merge as room
from swift.export import parity, prompts
from swift.export.args import ExportArgs
from swift.export.merge import merge
from swift.models.args import ModelArgs
from swift.templates.args import TemplateArgs
from tests import tiny
from tests.adapters import adapter

KINDS = {
    'lora': {},
    'rslora': {'use_rslora': True},
    'dora': {'use_dora': True},
    'dora of embeddings': {'use_dora': True, 'target_modules': ['q_proj', 'embed_tokens']},
    'saved head': {'target_modules': ['q_proj'], 'modules_to_save': ['lm_head']},
    'saved norms': {'target_modules': ['q_proj'], 'modules_to_save': ['norm']},
    'adapted head': {'target_modules': ['q_proj', 'lm_head']},
    'adapted embedding': {'target_modules': ['q_proj', 'embed_tokens']},
    'trained tokens': {'target_modules': ['q_proj'], 'trainable_token_indices': [7, 8]},
    'bias': {'target_modules': ['q_proj'], 'bias': 'lora_only'},
}


def base(tmp_path, architecture='llama', **changes):
    return tiny.folder(tmp_path / 'base', architecture, **changes)


def run(tmp_path, path, model=None, **options):
    """Merge as the commands do."""
    model = model or ModelArgs(model=str(tmp_path / 'base'))
    ask = lambda tokenizer: prompts.make(tokenizer, models.describe(model), TemplateArgs())
    return merge(model, path, ask, ExportArgs(output_dir=str(tmp_path / 'merged'), **options))


def greedy(model, ids=(1, 30, 40, 50)):
    given = torch.tensor([list(ids)])
    return model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False).tolist()


def same(tmp_path, path, *, atol=1e-5):
    """The merged folder in plain transformers against plain peft."""
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / 'base').eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / 'merged').eval()
    ids = torch.arange(0, 400, 7)[None]
    with torch.no_grad():
        unchanged = plain(ids).logits
        wanted = PeftModel.from_pretrained(plain, path).eval()
        torch.testing.assert_close(merged(ids).logits, wanted(ids).logits, atol=atol, rtol=1e-4)
        assert (merged(ids).logits - unchanged).abs().max() > 100 * atol
    assert greedy(merged) == greedy(wanted)


@pytest.mark.parametrize('tied', [False, True], ids=['untied', 'tied'])
@pytest.mark.parametrize('kind', KINDS)
def test_the_merged_model_is_the_model_with_its_adapter(kind, tied, tmp_path):
    folder = base(tmp_path, 'qwen2' if kind == 'bias' else 'llama', tie_word_embeddings=tied)
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(folder), **KINDS[kind])
    assert run(tmp_path, path) == tmp_path / 'merged'
    same(tmp_path, path)


@pytest.mark.parametrize('architecture', ['gpt2', 'gemma2', 'mistral', 'qwen3'])
def test_other_architectures_merge_too(architecture, tmp_path):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path, architecture)))
    run(tmp_path, path)
    same(tmp_path, path, atol=1e-4)


def test_bf16_weights_are_rounded_once(tmp_path):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path, dtype='bfloat16')))
    run(tmp_path, path)
    exact = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / 'base', dtype=torch.float32), path
    )
    wanted = {name: value.bfloat16() for name, value in exact.merge_and_unload().state_dict().items()}
    found = AutoModelForCausalLM.from_pretrained(tmp_path / 'merged')
    assert found.dtype == torch.bfloat16
    for name, value in found.state_dict().items():
        assert (value != wanted[name]).float().mean() < 1e-3, name  # fp32 sums differ in the last bit: rare ties
    assert json.loads((tmp_path / 'merged' / 'parity.json').read_text())['dtype'] == 'bfloat16'


def test_tokens_that_the_adapter_brought_are_in_the_merged_model(tmp_path):
    folder = base(tmp_path)
    grown = AutoModelForCausalLM.from_pretrained(folder)
    grown.resize_token_embeddings(402, mean_resizing=False)
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({'additional_special_tokens': ['<new1>', '<new2>']})
    path = adapter(tmp_path / 'a', grown, target_modules=['q_proj'], modules_to_save=['embed_tokens', 'lm_head'])
    tokenizer.save_pretrained(path)
    run(tmp_path, path, ModelArgs(model=str(folder), new_special_tokens=['<new1>', '<new2>']))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / 'merged').eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / 'merged')('<new2> Hi')['input_ids']
    assert ids[0] == 401
    wanted = PeftModel.from_pretrained(grown, path).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(torch.tensor([ids])).logits, wanted(torch.tensor([ids])).logits)


def test_the_folder_is_complete_sharded_and_durable(tmp_path):
    folder = base(tmp_path)
    (folder / 'generation_config.json').write_text('{"temperature": 0.7, "eos_token_id": [2, 0]}')
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(folder))
    (path / 'args.json').write_text(json.dumps({'system': 'Be brief.', 'quant_bits': 4, 'model': 'x', 'verb': 'sft'}))
    run(tmp_path, path, max_shard_size='40KB')
    merged = tmp_path / 'merged'
    assert len(list(merged.glob('model-*.safetensors'))) > 1
    assert json.loads((merged / 'generation_config.json').read_text()) == {'temperature': 0.7, 'eos_token_id': [2, 0]}
    assert json.loads((merged / 'args.json').read_text()) == {'verb': 'sft', 'system': 'Be brief.'}
    assert AutoTokenizer.from_pretrained(merged).chat_template == tiny.CHATML
    files.verify(merged)
    same(tmp_path, path)


def test_a_quantised_base_is_merged_in_its_own_type(tmp_path):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path)))
    run(tmp_path, path, ModelArgs(model=str(tmp_path / 'base'), quant_method='bnb', quant_bits=4))
    same(tmp_path, path)


@pytest.mark.parametrize('bits', [4, 8])
def test_an_adapter_on_a_checkpoint_that_is_stored_quantised_is_merged_into_its_dequantised_weights(bits, tmp_path):
    pytest.importorskip('bitsandbytes')
    plain = tiny.folder(tmp_path / 'plain', hidden_size=64, intermediate_size=128)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantised = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map='cpu')
    quantised.save_pretrained(tmp_path / 'base')
    tiny.tokenizer().save_pretrained(tmp_path / 'base')
    path = adapter(tmp_path / 'a', quantised)
    run(tmp_path, path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / 'merged').eval()
    assert 'quantization_config' not in json.loads((tmp_path / 'merged' / 'config.json').read_text())
    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / 'base'), path).eval()
    ids = torch.arange(0, 400, 7)[None]
    with torch.no_grad():
        assert (merged(ids).logits - wanted(ids).logits).abs().max() < 0.02


def test_an_output_folder_that_exists_is_replaced_only_when_told(tmp_path):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path)))
    (tmp_path / 'merged').mkdir()
    (tmp_path / 'merged' / 'precious').touch()
    with pytest.raises(ConfigError, match='exist_ok'):
        run(tmp_path, path)
    assert (tmp_path / 'merged' / 'precious').exists()
    run(tmp_path, path, exist_ok=True)
    assert not (tmp_path / 'merged' / 'precious').exists()


def test_an_adapter_of_another_model_is_refused(tmp_path):
    base(tmp_path)
    path = adapter(tmp_path / 'a', tiny.model('llama', hidden_size=64))
    with pytest.raises(ModelError, match='does not fit'):
        run(tmp_path, path)
    assert not (tmp_path / 'merged').exists()


# --------------------------------------------------------------------------------------------------- planted faults
def scale(factor):
    def fault(tuned):
        for module in tuned.modules():
            if isinstance(module, LoraLayer):
                module.scaling[room.NAME] *= factor

    return fault


def forgotten_layer(tuned):
    layer = next(module for module in tuned.modules() if isinstance(module, LoraLayer))
    layer.scaling[room.NAME] = 0.0


def flipped(name, index):
    def fault(tuned):
        weight = dict(tuned.named_parameters())[f'base_model.model.{name}']
        weight.data[index] *= -1

    return fault


FAULTS = {
    'twice the scale': scale(2.0),
    'a tenth more': scale(1.1),
    'one layer forgotten': forgotten_layer,
    'one sign in an adapted layer': flipped('model.layers.1.mlp.up_proj.base_layer.weight', (3, 5)),
    'one sign in an embedding': flipped('model.embed_tokens.weight', (399, 1)),
    'one number that is NaN': lambda tuned: tuned.get_base_model().model.norm.weight.data[3:4].fill_(float('nan')),
}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', FAULTS)
def test_a_planted_fault_is_caught_and_nothing_is_written(name, dtype, tmp_path, monkeypatch, capsys):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path, dtype=dtype)))
    right = room.merge_

    def wrong(tuned):
        FAULTS[name](tuned)
        return right(tuned)

    monkeypatch.setattr(room, 'merge_', wrong)
    with pytest.raises(parity.ParityError) as caught:
        run(tmp_path, path)
    assert caught.value.exit_code == 76
    assert 'REFUSED' in capsys.readouterr().out
    assert sorted(each.name for each in tmp_path.iterdir()) == ['a', 'base']


def test_a_fault_between_writing_and_reading_is_caught(tmp_path, monkeypatch):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path)))
    right = room.save

    def torn(model, tokenizer, folder, **options):
        right(model, tokenizer, folder, **options)
        weights = folder / 'model.safetensors'
        data = bytearray(weights.read_bytes())
        data[-5] ^= 0x40
        weights.write_bytes(data)

    monkeypatch.setattr(room, 'save', torn)
    with pytest.raises(parity.ParityError):
        run(tmp_path, path)


def test_parity_can_warn_or_be_off(tmp_path, monkeypatch, capsys):
    path = adapter(tmp_path / 'a', AutoModelForCausalLM.from_pretrained(base(tmp_path)))
    right = room.merge_
    monkeypatch.setattr(room, 'merge_', lambda tuned: (scale(2.0)(tuned), right(tuned))[1])
    run(tmp_path, path, parity='warn')
    assert not json.loads((tmp_path / 'merged' / 'parity.json').read_text())['passed']
    run(tmp_path, path, parity='off', exist_ok=True)
    assert not (tmp_path / 'merged' / 'parity.json').exists()


def test_the_reference_leaves_the_model_as_it_was(tmp_path):
    path = adapter(tmp_path / 'a', tiny.model(dtype='bfloat16'))
    tuned = room.adapters.attach(tiny.model(dtype='bfloat16'), room.NAME, path)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    parity.reference(tuned, [[1, 2, 3]], precise=True)
    after = tuned.state_dict()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
