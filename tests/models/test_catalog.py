"""The catalogue: patterns that expand, ids that are there once, architectures that exist."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from swift.core.errors import ConfigError
from swift.models import catalog
from swift.templates import catalog as templates


@pytest.mark.parametrize(
    ('pattern', 'ids'),
    [
        ('a/b', ['a/b']),
        ('a/b{1,2}', ['a/b1', 'a/b2']),
        ('a/b{,-c}', ['a/b', 'a/b-c']),
        ('{a,b}/{x,y}', ['a/x', 'a/y', 'b/x', 'b/y']),
        ('a/b{-{1,2}{,-x},-z}', ['a/b-1', 'a/b-1-x', 'a/b-2', 'a/b-2-x', 'a/b-z']),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, ids):
    assert catalog.expand(pattern) == ids


def test_there_are_more_than_thirty_types():
    assert len({family.model_type for family in catalog.families()}) > 30


def test_every_id_is_an_owner_and_a_name():
    for family in catalog.families():
        for model in family.models:
            assert model.ids, family.model_type
            for id in model.ids:
                assert re.fullmatch(r'[\w.-]+/[\w.-]+', id), id


@pytest.mark.parametrize('hub', ['modelscope', 'huggingface'])
def test_no_id_is_there_twice(hub):
    count = Counter(getattr(model, hub) for family in catalog.families() for model in family.models)
    assert [id for id, times in count.items() if id and times > 1] == []


def test_no_family_is_written_in_two_lines_that_could_be_one():
    keys = Counter(
        (f.model_type, f.architectures, f.template, f.thinking, f.tags, f.remote_code) for f in catalog.families()
    )
    assert [key for key, times in keys.items() if times > 1] == []


def test_every_architecture_exists_or_is_marked_as_remote_code():
    known = {
        name
        for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
        for names in mapping.values()
        for name in ([names] if isinstance(names, str) else names)
    }
    for family in catalog.families():
        assert bool(known & set(family.architectures)) != family.remote_code, family.model_type


def test_a_type_and_its_older_names_are_found():
    assert {family.model_type for family in catalog.of_type('qwen2_5')} == {'qwen2'}
    assert {family.model_type for family in catalog.of_type('llama')} == {'llama'}


def test_an_unknown_type_gets_the_nearest_names():
    with pytest.raises(ConfigError, match=r'--model_type qwen22: not in the catalogue; did you mean .*qwen2'):
        catalog.of_type('qwen22')


@pytest.mark.parametrize('name', ['Qwen/Qwen3-8B', 'qwen3-8b', '/data/models/Qwen3-8B/', 'someone/QWEN3-8b'])
def test_an_id_is_known_by_its_last_part(name):
    assert [family.model_type for family in catalog.of_id(name)] == ['qwen3']


def test_a_model_is_called_by_the_name_that_the_hub_knows():
    assert catalog.id_on('LLM-Research/Meta-Llama-3-8B', use_hf=True) == 'meta-llama/Meta-Llama-3-8B'
    assert catalog.id_on('meta-llama/Meta-Llama-3-8B', use_hf=False) == 'LLM-Research/Meta-Llama-3-8B'
    assert catalog.id_on('meta-llama/Meta-Llama-3-8B', use_hf=True) == 'meta-llama/Meta-Llama-3-8B'


def test_a_fork_keeps_its_own_name():
    assert catalog.id_on('someone/Meta-Llama-3-8B', use_hf=True) == 'someone/Meta-Llama-3-8B'


def test_rows_show_both_names_of_a_model():
    rows = {id: (family, template) for id, family, template in catalog.rows()}
    assert rows['LLM-Research/Meta-Llama-3-8B | meta-llama/Meta-Llama-3-8B'] == ('llama', 'llama3')


def test_every_template_named_here_is_written():
    named = {family.template for family in catalog.families() if family.template}
    assert named <= set(templates.names())
