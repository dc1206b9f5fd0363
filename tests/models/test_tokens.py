"""Tokenizers, new tokens and their embeddings."""

from __future__ import annotations

import pytest
import torch

from swift import models
from swift.core.errors import ConfigError, ModelError
from swift.models.args import ModelArgs
from swift.models.embeddings import grow_
from tests import tiny
from tests.models.test_info import edit


def roomy():
    """A tiny llama with 448 rows for its 400 tokens."""
    from transformers import AutoModelForCausalLM

    config = tiny.config('llama')
    config.vocab_size = 448
    return AutoModelForCausalLM.from_config(config)


def load(folder, *tokens, **flags):
    return models.load(ModelArgs(model=str(folder), new_special_tokens=list(tokens), **flags))


# ---------------------------------------------------------------------------------------------------- new tokens
def test_a_new_token_is_one_id_and_its_row_is_the_mean_of_the_others(folder):
    builder = load(folder, '<tool>', '<end>')
    ids = builder.tokenizer('<tool><end>').input_ids
    assert ids == [400, 401]
    model, old = builder.build(), tiny.model()
    for table, before in zip(
        (model.get_input_embeddings(), model.get_output_embeddings()),
        (old.get_input_embeddings(), old.get_output_embeddings()),
        strict=True,
    ):
        assert torch.equal(table.weight[:400], before.weight)
        for id in ids:
            assert torch.allclose(table.weight[id], before.weight.double().mean(0).float(), atol=1e-7)
    assert model.config.vocab_size == len(model.get_input_embeddings().weight) == 402


def test_a_table_of_whole_tiles_stays_one_of_whole_tiles():
    model = roomy()
    grow_(model, [448])
    assert model.config.vocab_size == 512
    mean = model.lm_head.weight[:448].mean(0)
    assert torch.allclose(model.lm_head.weight[448:], mean.expand(64, -1), atol=1e-7)


def test_a_table_that_has_room_keeps_its_size(tmp_path):
    saved = roomy()
    saved.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = load(tmp_path, '<tool>').build()
    assert model.config.vocab_size == 448
    old = saved.get_input_embeddings().weight
    assert torch.allclose(model.get_input_embeddings().weight[400], old[:400].mean(0), atol=1e-7)
    assert torch.equal(model.get_input_embeddings().weight[401:], old[401:])


def test_tied_weights_stay_tied(tmp_path):
    folder = tiny.folder(tmp_path / 'tied', tie_word_embeddings=True)
    model = load(folder, '<tool>').build()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_model_saved_with_new_tokens_is_left_as_it_was_trained(folder, tmp_path):
    builder = load(folder, '<tool>')
    model = builder.build()
    with torch.no_grad():
        model.get_input_embeddings().weight[400] = 3.0
    model.save_pretrained(tmp_path / 'saved')
    builder.tokenizer.save_pretrained(tmp_path / 'saved')
    again = load(tmp_path / 'saved', '<tool>').build()
    assert (again.get_input_embeddings().weight[400] == 3.0).all()


def test_tokens_come_from_files_too(folder, tmp_path):
    (tmp_path / 'tokens.txt').write_text('<a>\n\n  <b>\n')
    builder = load(folder, str(tmp_path / 'tokens.txt'), '<c>', '<a>')
    assert builder.tokenizer('<a><b><c>').input_ids == [400, 401, 402]


def test_a_file_of_tokens_that_is_not_there_is_named(folder):
    with pytest.raises(ConfigError, match=r'--new_special_tokens none\.txt: cannot be read'):
        load(folder, 'none.txt')


# ----------------------------------------------------------------------------------------------------- tokenizers
def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / 'tokenizer.json').unlink()
    with pytest.raises(ModelError, match=r'no tokenizer .*copy the tokenizer files of the base model'):
        load(folder)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / 'tokenizer.json').write_text('{"model": ')
    with pytest.raises(ModelError, match='the tokenizer cannot be loaded'):
        load(folder)


def test_a_tokenizer_of_code_needs_trust(folder):
    edit(folder, 'tokenizer_config.json', auto_map={'AutoTokenizer': [None, 'tokenization_x.X']}, tokenizer_class='X')
    with pytest.raises(ModelError, match='give --trust_remote_code true'):
        load(folder)


def test_a_tokenizer_without_pad_token_gets_the_end_token(folder):
    edit(folder, 'tokenizer_config.json', pad_token=None)
    assert load(folder).tokenizer.pad_token == '<|im_end|>'


def extend(folder, token, *, special):
    made = tiny.tokenizer()
    made.add_tokens([token], special_tokens=special)
    made.save_pretrained(folder)


@pytest.mark.parametrize('special', [False, True])
def test_a_token_that_has_no_embedding_is_refused_when_text_or_template_can_write_it(folder, special):
    extend(folder, '<think>', special=special)
    if special:
        (folder / 'chat_template.jinja').write_text(tiny.CHATML + '<think>')
    with pytest.raises(ModelError, match=r"401 tokens, the model 400 embeddings; without one: '<think>'"):
        load(folder)


def test_a_special_token_that_nothing_writes_needs_no_embedding(folder, log):
    extend(folder, '<image_soft_token>', special=True)
    load(folder)
    assert '<image_soft_token>' in log.text


def test_a_token_without_embedding_can_be_given_one(folder):
    extend(folder, '<think>', special=False)
    builder = load(folder, '<think>')
    weight = builder.build().get_input_embeddings().weight
    assert torch.allclose(weight[400], weight[:400].mean(0), atol=1e-7)
