"""Requests name adapters; each answer is the one that plain peft gives with that adapter."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from swift.core.errors import ModelError, RequestError
from swift.core.types import Request, Sampling
from tests import tiny
from tests.adapters import adapter
from tests.engines.plain import ask, engine, prompts, reference

KINDS = {
    'lora': {},
    'rslora': {'use_rslora': True},
    'dora': {'use_dora': True},
    'head': {'target_modules': ['q_proj'], 'modules_to_save': ['lm_head']},
    'embedding': {'target_modules': ['q_proj', 'embed_tokens']},
}
TEN = Sampling(max_tokens=10)


def wanted(path, **changes):
    """Greedy answers of plain peft."""
    model = PeftModel.from_pretrained(tiny.model(**changes), path).eval()
    return [reference(model, prompt, 10) for prompt in prompts()]


@pytest.mark.parametrize('kind', KINDS)
def test_an_adapter_answers_as_in_plain_peft(kind, tmp_path):
    path = adapter(tmp_path / 'a', tiny.model(), **KINDS[kind])
    with engine(tiny.model()) as native:
        base = ask(native, prompts(), TEN)
        native.load_adapter('a', path)
        assert ask(native, prompts(), TEN, adapter='a') == wanted(path)
        assert ask(native, prompts(), TEN) == base
    assert base != wanted(path)


def test_requests_with_different_adapters_run_at_the_same_time(tmp_path):
    paths = {name: adapter(tmp_path / name, tiny.model(), seed=i) for i, name in enumerate('ab')}
    answers = {name: wanted(path) for name, path in paths.items()}
    answers[None] = [reference(tiny.model(), prompt, 10) for prompt in prompts()]
    with engine(tiny.model(), max_batch_size=8) as native:
        for name, path in paths.items():
            native.load_adapter(name, path)
        streams = [
            (name, i, native.stream(Request(f'{name}{i}', tuple(prompt), TEN, name)))
            for i, prompt in enumerate(prompts())
            for name in ('a', None, 'b')
        ]
        for name, i, stream in streams:
            assert [id for piece in stream for id in piece.ids] == answers[name][i]


def test_an_adapter_with_tokens_of_its_own_grows_the_embeddings(tmp_path):
    grown = tiny.model()
    grown.resize_token_embeddings(410, mean_resizing=False)
    path = adapter(tmp_path / 'a', grown, target_modules=['q_proj'], modules_to_save=['embed_tokens', 'lm_head'])
    with engine(tiny.model()) as native:
        with pytest.raises(RequestError, match='0 to 399'):
            native.stream(Request('new', (405,)))
        native.load_adapter('a', path)
        assert ask(native, [[405, 3]], TEN, adapter='a') == [
            reference(PeftModel.from_pretrained(grown, path), [405, 3], 10)
        ]


def test_an_adapter_of_another_model_is_refused_and_the_engine_goes_on(tmp_path):
    foreign = adapter(tmp_path / 'gpt2', tiny.model('gpt2'), target_modules=['c_attn'])
    deeper = adapter(tmp_path / 'deep', tiny.model('llama', num_hidden_layers=3))
    wider = adapter(tmp_path / 'wide', tiny.model('llama', hidden_size=64))
    own = adapter(tmp_path / 'own', tiny.model())
    with engine(tiny.model()) as native:
        for path in (foreign, deeper, wider):
            with pytest.raises(ModelError):
                native.load_adapter('x', path)
            assert native.adapters == ()
        native.load_adapter('x', own)
        assert ask(native, prompts(), TEN, adapter='x') == wanted(own)


def test_folders_that_are_no_adapter_are_refused(tmp_path):
    own = adapter(tmp_path / 'own', tiny.model())
    (own / 'adapter_model.safetensors').rename(own / 'adapter_model.bin')
    virtual = tmp_path / 'virtual'
    virtual.mkdir()
    (virtual / 'adapter_config.json').write_text(json.dumps({'peft_type': 'PROMPT_TUNING', 'num_virtual_tokens': 8}))
    (virtual / 'adapter_model.safetensors').touch()
    with engine(tiny.model()) as native:
        for path, reason in ((own, 'adapter_model.safetensors'), (virtual, 'virtual tokens'), (tmp_path, 'no adapter')):
            with pytest.raises(ModelError, match=reason):
                native.load_adapter('x', path)


def test_unloading_waits_for_nobody_but_refuses_while_in_use(tmp_path):
    paths = {name: adapter(tmp_path / name, tiny.model(), seed=i) for i, name in enumerate('ab')}
    base = reference(tiny.model(), prompts()[0], 10)
    with engine(tiny.model(), stop_ids=()) as native:
        for name, path in paths.items():
            native.load_adapter(name, path)
        stream = native.stream(Request('long', tuple(prompts()[0]), Sampling(max_tokens=200), 'a'))
        next(stream)
        with pytest.raises(ModelError, match='answers 1 requests'):
            native.unload_adapter('a')
        stream.close()
        native.abort('long')
        native.unload_adapter('a')
        with pytest.raises(RequestError, match='not loaded; did you mean'):
            native.stream(Request('gone', (5,), TEN, 'bb'))
        native.unload_adapter('b')
        assert ask(native, prompts()[:1], TEN) == [base]
        native.load_adapter('b', paths['b'])
        assert native.adapters == ('b',)


def test_update_reaches_the_weights_under_an_adapter(tmp_path):
    path = adapter(tmp_path / 'a', tiny.model())
    other = tiny.model(seed=5)
    with engine(tiny.model()) as native:
        native.load_adapter('a', path)
        native.update(other.state_dict().items())
        changed = ask(native, prompts(), TEN, adapter='a')
    model = PeftModel.from_pretrained(tiny.model(seed=5), path).eval()
    with torch.inference_mode():
        assert changed == [reference(model, prompt, 10) for prompt in prompts()]
