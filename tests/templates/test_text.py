"""Plain text: everything is trained but the first token, and the text ends with eos."""

import pytest

from swift.core.errors import DataError, RowError
from swift.core.types import Origin, Sample
from tests import tiny
from tests.templates.world import answer, bytes_tokenizer, encode, template, user, weighted

CHATML = tiny.CHATML


@pytest.mark.parametrize('flags', [{'use_chat_template': False}, {}])
def test_a_text_row_is_its_text_and_eos_all_trained(flags):
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    tokenizer.chat_template = CHATML
    encoded = encode(template(tokenizer, **flags), text='abc')
    assert tokenizer.decode(encoded.input_ids) == 'abc</s>'
    assert encoded.weight.tolist() == [0, 1, 1, 1]
    assert set(encoded.role.tolist()) == {0, 5}


def test_bos_stands_first_where_the_tokenizer_puts_it():
    from tokenizers.processors import TemplateProcessing

    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        '<s> $A', special_tokens=[('<s>', tokenizer.bos_token_id)]
    )
    made = template(tokenizer, use_chat_template=False)
    assert tokenizer.decode(encode(made, text='abc').input_ids) == '<s>abc</s>'
    assert encode(made, text='abc').weight.tolist() == [0, 1, 1, 1, 1]
    assert tokenizer.decode(made.prompt([user('abc')])) == '<s>abc'


def test_control_strings_of_a_text_stay_text():
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    ids = encode(template(tokenizer, use_chat_template=False), text='a</s>b').input_ids.tolist()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == 'a</s>b</s>'


def test_messages_without_a_chat_template_are_their_contents():
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    row = user('ab'), answer('cd'), answer('ef', loss=0.5)
    assert weighted(encode(template(tokenizer, use_chat_template=False), *row), tokenizer) == ['cdef</s>']
    assert weighted(encode(template(tokenizer, use_chat_template=False, loss_scale='all'), *row), tokenizer) == [
        'bcdef</s>'
    ]


def test_an_empty_text_is_refused():
    with pytest.raises(RowError, match='no text'):
        encode(template(tiny.tokenizer(), use_chat_template=False), text='')


# ------------------------------------------------------------------------------------------------------- truncation
def cut(strategy, length, *messages, **flags):
    tokenizer = bytes_tokenizer(CHATML)
    made = template(tokenizer, max_length=length, truncation_strategy=strategy, **flags)
    sample = Sample(messages=messages, origin=Origin('rows.jsonl', 7))
    return [
        (tokenizer.decode(each.input_ids), weighted(each, tokenizer), each.truncated) for each in made.encode(sample)
    ]


LONG = user('question'), answer('the answer')  # 7 + 19 tokens: user\nquestion, assistant\nthe answer, controls


def test_a_row_that_fits_is_left_alone():
    assert cut('left', 1000, *LONG)[0][2] is False


@pytest.mark.parametrize('strategy', ['delete', None])
def test_delete_leaves_the_row_out(strategy):
    assert cut(strategy, 20, *LONG) == []


def test_left_keeps_the_end_and_the_stop_token():
    assert cut('left', 8, *LONG) == [('answer<|im_end|>\n', ['nswer<|im_end|>'], True)]


def test_right_keeps_the_beginning_and_loses_the_stop_token():
    ((text, trained, truncated),) = cut('right', 30, *LONG)
    assert text.startswith('<|im_start|>user\nquestion<|im_end|>')
    assert trained and 'the answer'.startswith(trained[0])
    assert truncated


def test_a_cut_that_leaves_nothing_to_train_is_refused():
    with pytest.raises(RowError, match='nothing of an answer is left'):
        cut('right', 9, *LONG)


def test_raise_ends_the_run_and_names_the_row():
    with pytest.raises(DataError, match=r'rows\.jsonl:7: \d+ tokens, more than --max_length 9'):
        cut('raise', 9, *LONG)


def test_max_length_is_the_model_s_where_none_is_given():
    tokenizer = bytes_tokenizer(CHATML)
    assert template(tokenizer, max_model_len=9).encode(Sample(messages=LONG)) == []


def test_split_gives_rows_of_plain_text():
    tokenizer = bytes_tokenizer('', bos='<s>', eos='</s>')
    made = template(tokenizer, use_chat_template=False, truncation_strategy='split', max_length=4)
    pieces = made.encode(Sample(text='abcdefghi'))
    assert [tokenizer.decode(piece.input_ids) for piece in pieces] == ['abcd', 'efgh', 'i</s>']
    assert [piece.weight.tolist() for piece in pieces] == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1]]
