"""get_template as notebooks use it: modes, rows as dicts, ids back to text."""

import pytest

from swift import EncodePreprocessor, InferRequest, get_template, load_dataset
from swift.core.errors import ConfigError, RowError
from tests import tiny

ROW = {'messages': [{'role': 'user', 'content': 'Who?'}, {'role': 'assistant', 'content': 'Me.'}]}


def test_a_row_is_a_prompt_until_the_mode_is_training():
    tokenizer = tiny.tokenizer()
    template = get_template(tokenizer)
    asked = template.encode(InferRequest(ROW['messages'][:1]))
    assert tokenizer.decode(asked['input_ids']).endswith('Who?<|im_end|>\n<|im_start|>assistant\n')
    template.set_mode('train')
    row = template.encode(ROW, return_length=True)
    assert row['length'] == len(row['input_ids']) == len(row['labels'])
    assert template.safe_decode(row['labels']).endswith(']Me.<|im_end|>[-100 * 1]')


def test_any_format_of_rows_encodes_alike_and_as_a_dataset_does():
    template = get_template(tiny.tokenizer())
    template.set_mode('train')
    train, _ = load_dataset([ROW])
    (encoded,) = EncodePreprocessor(template)(train)
    assert template.encode({'query': 'Who?', 'response': 'Me.'}, return_length=True) == encoded


def test_wrong_modes_and_rows_are_said():
    template = get_template(tiny.tokenizer(), max_length=3)
    with pytest.raises(ConfigError, match='did you mean train'):
        template.set_mode('trian')
    template.set_mode('train')
    with pytest.raises(RowError):
        template.encode({'messages': ROW['messages'][:1]})
