"""get_template and what notebooks do with it."""

import pytest

from swift import EncodePreprocessor, get_template, load_dataset
from swift.core.errors import ConfigError
from swift.templates import xray
from tests import tiny


def test_a_tokenizer_in_memory_gives_a_template_that_encodes_rows():
    template = get_template(tiny.tokenizer(), 'Be brief.', 200, padding_side='right')
    train, _ = load_dataset([{'query': 'Who?', 'response': 'Me.'}])
    row = next(iter(EncodePreprocessor(template)(train)))
    trained = [id for id, label in zip(row['input_ids'], row['labels'], strict=True) if label != -100]
    assert tiny.tokenizer().decode(trained) == 'Me.<|im_end|>'
    assert 'Be brief.' in tiny.tokenizer().decode(row['input_ids'])


def test_unknown_arguments_are_refused():
    with pytest.raises(ConfigError, match='max_lenght'):
        get_template(tiny.tokenizer(), max_lenght=3)


def test_characters_of_several_tokens_are_shown_whole():
    tokenizer = tiny.tokenizer()
    text = 'a你好é🙂 b'
    texts = xray.texts_of(tokenizer(text)['input_ids'], tokenizer)
    assert ''.join(texts) == text
