"""Which characters become which tokens, and which tokens hold an answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import RowError, TemplateError
from swift.templates.offsets import Spelling
from swift.templates.tokens import Said, Tokenizer
from tests import tiny
from tests.templates.world import (
    answer,
    bytes_tokenizer,
    dicts,
    encode,
    metaspace_tokenizer,
    system,
    template,
    user,
    weighted,
)

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TOKENIZERS = {
    'bpe': lambda: tiny.tokenizer(),
    'metaspace first': lambda: metaspace_tokenizer(LLAMA2, scheme='first'),
    'metaspace always': lambda: metaspace_tokenizer(LLAMA2, scheme='always'),
    'metaspace never': lambda: metaspace_tokenizer(LLAMA2, scheme='never'),
}
MADE = {name: make() for name, make in TOKENIZERS.items()}
TEMPLATES = {name: template(tokenizer) for name, tokenizer in MADE.items()}
WORDS = st.text('ab  \n.é你🌍', min_size=1, max_size=12).filter(str.strip)
SPELLS = st.lists(
    st.sampled_from(['</s>', '<s>', '<|im_end|>', '<|im_start|>', '<', '|>', ' a', 'é', '\n']), max_size=6
)


@pytest.mark.parametrize('name', TOKENIZERS)
@given(asked=WORDS, told=WORDS)
@settings(max_examples=40, deadline=None)
def test_ids_equal_those_of_apply_chat_template_on_every_kind_of_tokenizer(name, asked, told):
    row = user(asked), answer(told), user(told), answer(asked)
    theirs = MADE[name].apply_chat_template(dicts(row), return_dict=False)
    assert encode(TEMPLATES[name], *row).input_ids.tolist() == theirs


@pytest.mark.parametrize('name', TOKENIZERS)
@given(asked=SPELLS.map(''.join), told=SPELLS.map(''.join))
@settings(max_examples=60, deadline=None)
def test_no_control_token_comes_out_of_a_row_and_no_text_is_lost(name, asked, told):
    tokenizer, row = MADE[name], (user(f'x{asked}x'), answer(f'x{told}x'))
    ids = encode(TEMPLATES[name], *row).input_ids.tolist()
    plain = tokenizer.apply_chat_template(dicts((user('x'), answer('x'))), return_dict=False)
    special = set(tokenizer.all_special_ids)
    assert [id for id in ids if id in special] == [id for id in plain if id in special]
    spelled = tokenizer.apply_chat_template(dicts(row), tokenize=False)
    read = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert read.replace(' ', '') == spelled.replace(' ', '')


def test_only_the_stretch_with_a_control_string_is_encoded_again():
    """The other turns keep the ids that they have without it."""
    tokenizer = tiny.tokenizer()
    made = template(tokenizer)
    rows = [
        (user(asked), answer('The capital of France is Paris.'), user('Who are you?'), answer('I am small.'))
        for asked in ('quick', 'quick <|im_end|> fox')
    ]
    plain, evil = (encode(made, *row).input_ids.tolist() for row in rows)
    after = plain.index(tokenizer.eos_token_id)
    assert evil[-len(plain[after:]) :] == plain[after:]


def test_a_token_that_holds_the_template_s_blank_and_the_answer_is_trained():
    """``▁The`` after ``[/INST]``: the blank is the template's, the word the answer's."""
    tokenizer = metaspace_tokenizer(LLAMA2)
    encoded = encode(template(tokenizer), user('What?'), answer('The fox.'))
    trained = tokenizer.convert_ids_to_tokens(encoded.input_ids[encoded.weight > 0])
    assert trained[0].startswith('▁')
    assert ''.join(trained).replace('▁', ' ').split() == ['The', 'fox.', '</s>']


def test_a_token_that_ends_the_answer_and_begins_the_template_s_words_is_trained():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate([*alphabet, '.Ċ'])}, merges=[('.', 'Ċ')]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.chat_template = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}'
    encoded = encode(template(tokenizer), user('a.'), answer('b.'))
    assert weighted(encoded, tokenizer) == ['b.\n']


def test_many_tokens_of_one_character_are_all_trained():
    tokenizer = bytes_tokenizer(LLAMA2)
    encoded = encode(template(tokenizer), user('?'), answer('🌍'))
    assert encoded.weight.sum() == 4 + 1 + 1  # bytes, the blank before the stop token, the stop token


def test_the_first_token_of_a_row_is_never_trained():
    tokenizer = bytes_tokenizer('{% for m in messages %}{{ m.content }}</s>{% endfor %}')
    made = template(tokenizer, loss_scale='all')
    assert encode(made, user('ab'), answer('c')).weight.tolist() == [0, 1, 1, 1, 1]


def test_roles_say_who_speaks():
    source = '{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}'
    tokenizer = bytes_tokenizer(source)
    encoded = encode(template(tokenizer), system('s'), user('u'), answer('a'))
    pairs = zip(encoded.input_ids, encoded.role, strict=True)
    spoken = [(tokenizer.decode([id]), role) for id, role in pairs if role]
    assert spoken == [('s', 1), ('u', 2), ('a', 3), ('</s>', 3)]


def test_added_words_and_markup_are_ordinary_vocabulary():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(['covid', '<td>'])
    ids = Tokenizer(tokenizer)('<td>covid', [Said(0, 9, answer=False)]).ids
    assert tokenizer.convert_ids_to_tokens(ids) == ['<td>', 'covid']


def test_an_added_token_that_the_template_writes_is_control_in_questions_only():
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(['<tool>'])
    read = Tokenizer(tokenizer, '<tool>')
    assert len(read('<tool>', [Said(0, 6, answer=True)]).ids) == 1
    assert len(read('<tool>', [Said(0, 6, answer=False)]).ids) > 1
    assert len(read('<tool>').controls) == 1


def test_a_control_token_whose_text_is_in_the_vocabulary_is_refused():
    """A Unigram model finds ``</s>`` as an ordinary piece."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models
    from transformers import PreTrainedTokenizerFast

    inner = Inner(models.Unigram([('<unk>', 0.0), ('</s>', -0.1), ('a', -1.0), ('<', -9.0), ('/', -9.0)], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token='</s>')
    with pytest.raises(RowError, match='which this tokenizer cannot write without its control token'):
        Tokenizer(tokenizer)('a</s>a', [Said(0, 6, answer=False)])


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        backend_tokenizer = None

    with pytest.raises(TemplateError, match='no fast'):
        Tokenizer(Slow())


def test_truncation_set_on_the_tokenizer_changes_nothing():
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    text = 'What is the capital of France?'
    assert np.array_equal(Tokenizer(tokenizer)(text).ids, Tokenizer(tiny.tokenizer())(text).ids)


@given(st.text('ab .\né你🌍\u0301', max_size=20))
@settings(max_examples=60, deadline=None)
def test_offsets_by_spelling_are_those_of_the_tokenizer(text):
    backend = MADE['bpe'].backend_tokenizer
    theirs = backend.encode(text + '<|im_end|>', add_special_tokens=False)
    ours = Spelling(backend)(theirs.ids, text + '<|im_end|>')
    assert [ours.token_to_chars(i) for i in range(len(theirs))] == theirs.offsets
    places = range(len(text) + 10)
    assert [ours.char_to_token(i) for i in places] == [theirs.char_to_token(i) for i in places]


def test_ids_that_do_not_spell_the_text_have_no_offsets_by_spelling():
    tokenizer = tiny.tokenizer()
    spelled = Spelling(tokenizer.backend_tokenizer)
    assert spelled(tokenizer.encode('fox'), 'fog') is None
