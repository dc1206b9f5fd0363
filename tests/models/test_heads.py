"""Models with other heads: how they load, and that plain transformers and peft open what is saved."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers

from swift import models
from swift.core.errors import ConfigError, ModelError
from swift.models import sentence
from swift.models.args import ModelArgs
from swift.tuners import lora
from swift.tuners.args import TunerArgs
from tests import tiny

IDS = torch.arange(3, 12)[None]


def load(folder, **flags):
    return models.load(ModelArgs(model=str(folder), **flags))


@pytest.fixture
def folder(tmp_path):
    return tiny.folder(tmp_path / 'base')


def test_a_classifier_of_a_language_model_has_a_fresh_head_and_all_its_other_weights(folder):
    torch.manual_seed(0)
    model = load(folder, task_type='seq_cls', num_labels=3).build()
    assert model.score.weight.shape == (3, 32)
    language = load(folder).build()
    torch.testing.assert_close(model.model(IDS).last_hidden_state, language.model(IDS).last_hidden_state)


def test_plain_transformers_opens_a_saved_classifier_and_scores_the_same(folder, tmp_path):
    made = load(folder, task_type='seq_cls', num_labels=3, problem_type='multi_label_classification')
    model = made.build()
    model.save_pretrained(tmp_path / 'saved')
    found = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / 'saved')
    assert found.config.problem_type == 'multi_label_classification' and found.config.pad_token_id is not None
    torch.testing.assert_close(found(IDS).logits, model(IDS).logits)


def test_a_saved_classifier_knows_its_labels_by_itself(folder, tmp_path):
    load(folder, task_type='seq_cls', num_labels=3).build().save_pretrained(tmp_path / 'saved')
    tiny.tokenizer().save_pretrained(tmp_path / 'saved')
    assert load(tmp_path / 'saved', task_type='seq_cls').build().score.out_features == 3
    with pytest.raises(ConfigError, match='has 3'):
        load(tmp_path / 'saved', task_type='seq_cls', num_labels=2)
    with pytest.raises(ModelError, match='task_type seq_cls'):
        load(tmp_path / 'saved')


def test_peft_opens_an_adapter_with_its_head_and_scores_the_same(folder, tmp_path):
    torch.manual_seed(0)
    model = lora.attach(load(folder, task_type='seq_cls', num_labels=2).build(), TunerArgs()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    lora.export(model, tmp_path / 'adapter', with_embeddings=False)
    found = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / 'adapter', num_labels=2)
    torch.testing.assert_close(found(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_an_embedding_model_has_no_output_head_and_its_adapter_is_a_feature_extractor(folder, tmp_path):
    model = load(folder, task_type='embedding').build()
    assert type(model).__name__ == 'LlamaModel'
    tuned = lora.attach(model, TunerArgs())
    assert tuned.peft_config['default'].task_type == 'FEATURE_EXTRACTION'


def test_labels_are_asked_for_where_there_is_no_head(folder):
    with pytest.raises(ConfigError, match='--num_labels'):
        load(folder, task_type='seq_cls')
    with pytest.raises(ConfigError, match='2 or more'):
        load(folder, task_type='seq_cls', num_labels=1, problem_type='single_label_classification')


def test_one_label_is_a_regression_and_a_reranker_has_one(folder):
    assert load(folder, task_type='seq_cls', num_labels=1).info.config.problem_type == 'regression'
    assert load(folder, task_type='reranker').info.config.num_labels == 1


def test_the_words_of_a_generative_reranker_are_single_tokens(folder):
    with pytest.raises(ConfigError, match='a word that is one token'):
        load(folder, task_type='generative_reranker', reranker_positive_word='relevant indeed')


# ---------------------------------------------------------------------------------------------- sentence-transformers
def test_pooling_is_read_from_the_modules_of_the_folder_in_old_and_new_words(tmp_path):
    (tmp_path / '1_Pooling').mkdir()
    kinds = ['models.Transformer', 'models.Pooling']
    modules = [{'idx': i, 'path': '1_Pooling' * i, 'type': f'sentence_transformers.{k}'} for i, k in enumerate(kinds)]
    (tmp_path / 'modules.json').write_text(json.dumps(modules))
    config = tmp_path / '1_Pooling' / 'config.json'
    config.write_text(json.dumps({'pooling_mode_cls_token': True, 'pooling_mode_mean_tokens': True}))
    assert sentence.readout(tmp_path).pooling == ('cls', 'mean') and not sentence.readout(tmp_path).normalize
    config.write_text(json.dumps({'pooling_mode': 'lasttoken'}))
    assert sentence.readout(tmp_path).pooling == ('lasttoken',)


def test_a_module_that_is_not_known_is_refused_by_name(tmp_path):
    (tmp_path / 'modules.json').write_text(json.dumps([{'path': '2_Dense', 'type': 'sentence_transformers.Dense'}]))
    with pytest.raises(ModelError, match='Dense'):
        sentence.readout(tmp_path)


def test_what_is_written_is_read_again(tmp_path):
    made = sentence.readout(tmp_path)
    assert made.pooling == ('lasttoken',) and made.normalize
    sentence.write(tmp_path, made, width=32, length=64, source=tmp_path)
    assert sentence.readout(tmp_path) == made and sentence.max_length(tmp_path) == 64
