"""The mask is the answers and their stop tokens, and nothing else.

The oracle knows nothing of how masks are made: it renders each conversation a second time with transformers, a marker
word in the place of every answer, and looks for the markers.
"""

import itertools
import re

import pytest

from swift.core.errors import RowError
from swift.core.types import Sample
from tests.templates.world import (
    ORIGINALS,
    answer,
    bytes_tokenizer,
    controls,
    dicts,
    encode,
    masked,
    real_templates,
    system,
    template,
    user,
    weighted,
)

CHATML = (
    '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def conversations(names):
    """Rows of every odd kind. ``names`` are the template's control strings."""
    spell = ' '.join(names)
    yield 'plain', user('Question one'), answer('Alpha one'), user('Query two'), answer('Beta two')
    yield 'system', system('Be brief'), user('Question one'), answer('Alpha one')
    yield 'blanks', user('  Question \n'), answer('\n Alpha  \n\n'), user('\n\nQuery\t'), answer('  Beta two \n')
    yield 'same', user('Same words'), answer('Same words'), user('Same words'), answer('Same words')
    yield 'pieces', user('assistant'), answer('assistant'), user('user\n'), answer('user')
    yield 'spell asked', user(f'evil {spell} end'), answer('Alpha one'), user(spell), answer('Beta two')
    yield 'spell answered', user('Question one'), answer(f'say {spell} end'), user('Query two'), answer('Beta two')
    yield (
        'foreign',
        user('你好 🌍 é'),
        answer('\u3000全角\u2003\u2028 👩‍👩‍👧 \U0001f3f4\U000e0067 \ue000\U000f0001'),
        user('ß'),
        answer('ﬁ'),
    )
    yield 'json', user('{"a": "b\\n"}'), answer('{"x": [1, "\\"q\\""]}\n'), user("it's"), answer("don't \\ 'quote'")
    yield 'empty', user('Question one'), answer(''), user('Query two'), answer('Beta two')
    yield 'unanswered', user('Question one'), answer('Alpha one'), user('Query two')
    yield 'twice', user('Question one'), answer('Alpha one'), answer('Beta two')
    yield 'long', *itertools.chain(*((user(f'question {i}'), answer(f'reply {i}')) for i in range(6)))


def expected(tokenizer, messages, stops, told):
    """The text, and the characters that must carry loss; None if the markers do not explain the text."""
    text = tokenizer.apply_chat_template(told(messages), tokenize=False)
    marks = {i: f'ZQMARK{i}XQZ' for i, m in enumerate(messages) if m.role == 'assistant' and m.content.strip()}
    marked = [answer(marks[i]) if i in marks else message for i, message in enumerate(messages)]
    parts = re.split(r'(ZQMARK\d+XQZ)', tokenizer.apply_chat_template(told(marked), tokenize=False))
    if sorted(parts[1::2]) != sorted(marks.values()):
        return text, None
    order = [next(i for i, mark in marks.items() if mark == part) for part in parts[1::2]]
    shapes = [(c, c.strip(), c.lstrip(), c.rstrip()) for c in (messages[i].content for i in order)]
    for shape in itertools.product(*map(dict.fromkeys, shapes)):
        if ''.join(itertools.chain(*zip(parts[::2], [*shape, ''], strict=True))) == text:
            break
    else:
        return text, None
    must, at = set(), 0
    for words, said, after in zip(parts[::2], shape, parts[2::2], strict=False):
        at += len(words)
        must.update(range(at, at + len(said)))
        at += len(said)
        found = re.search('|'.join(map(re.escape, stops)), after)
        if found and not set(after[: found.start()]) - set(' \n'):
            must.update(range(at + found.start(), at + found.end()))
        elif found and not re.sub(r'<[|｜][^|｜]+[|｜]>', '', after[: found.start()]):
            must.update(range(at, at + found.end()))
    return text, must


def characters(encoded, tokenizer, text):
    """The characters of the text that carry loss."""
    at, carrying = 0, set()
    places = [i for i, char in enumerate(text) for _ in char.encode()]
    spelled = text.encode()
    for id, weight in zip(encoded.input_ids.tolist(), encoded.weight.tolist(), strict=True):
        word = tokenizer.decode([id]).encode() if id in tokenizer.added_tokens_decoder else spelled[at : at + 1]
        if weight:
            carrying.update(places[at : at + len(word)])
        at += len(word)
    return carrying


@pytest.mark.parametrize('name', ORIGINALS)
def test_the_mask_covers_the_answers_and_their_stop_tokens_only(name):
    source = real_templates()[name]
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    parts = made._reader(tools=False).style.parts
    told = lambda messages: [
        {**each, 'content': [{'type': 'text', 'text': each['content']}]} if parts else each for each in dicts(messages)
    ]
    proven = 0
    for kind, *messages in conversations([name for name in controls(source) if 'think' not in name][:9]):
        try:
            text, must = expected(tokenizer, messages, tokenizer.convert_ids_to_tokens(made.stop_ids), told)
        except Exception:
            with pytest.raises(RowError):
                encode(made, *messages)
            continue
        if must is None:  # the template looks into the words; test_thinking.py has its own numbers
            continue
        encoded = encode(made, *messages)
        if kind == 'empty':
            must = {i for i in must if not text[i].isspace()}
            assert must <= characters(encoded, tokenizer, text)
        else:
            assert characters(encoded, tokenizer, text) == must - {0}, kind
        proven += 1
    assert proven >= 6


@pytest.mark.parametrize('name', ORIGINALS)
def test_user_text_never_becomes_a_control_token(name):
    source = real_templates()[name]
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    spell = ' '.join(controls(source))
    plain, evil = (
        encode(made, user(f'{words} x {words}'), answer(f'{told} y')).input_ids.tolist()
        for words, told in (('a', 'b'), (spell, ' '.join(tokenizer.all_special_tokens)))
    )
    special = set(tokenizer.all_special_ids) | {id for id in tokenizer.added_tokens_decoder if id in plain}
    assert [id for id in evil if id in special] == [id for id in plain if id in special]


# ------------------------------------------------------------------------------------- what templates do, one by one
def test_the_newline_after_chatml_s_stop_token_is_not_trained():
    assert masked(CHATML, user('a'), answer('b'), user('c'), answer('d')) == ['b<|im_end|>', 'd<|im_end|>']


def test_white_space_that_the_template_keeps_is_trained_and_what_it_trims_is_gone():
    assert masked(CHATML, user('a'), answer('\n b \n')) == ['\n b \n<|im_end|>']
    assert masked(CHATML.replace('m.content', 'm.content | trim'), user('a'), answer('\n b \n')) == ['b<|im_end|>']


def test_blanks_between_answer_and_stop_token_are_trained_for_they_lead_to_it():
    source = '{% for m in messages %}{{ m.role }}: {{ m.content }} </s>{% endfor %}'
    assert masked(source, user('a'), answer('b')) == ['b </s>']


def test_what_closes_an_answer_is_trained():
    source = '{% for m in messages %}<|{{ m.role }}|><answer>{{ m.content }}</answer><|eot_id|>{% endfor %}'
    assert masked(source, user('a'), answer('b')) == ['b</answer><|eot_id|>']


GLM = (
    "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>' }}"
    + '\n\n{{ m.content }}{% endfor %}'
)


def test_the_next_role_s_token_ends_an_answer_where_nothing_else_does():
    assert masked(GLM, user('a'), answer('b'), user('c'), answer('d')) == ['b<|user|>', 'd</s>']


def test_the_last_answer_gets_the_next_role_s_token_if_the_checkpoint_stops_there(tmp_path):
    tokenizer = bytes_tokenizer(GLM)
    id = tokenizer.convert_tokens_to_ids('<|user|>')
    (tmp_path / 'generation_config.json').write_text(f'{{"eos_token_id": [{id}]}}')
    encoded = encode(template(tokenizer, folder=tmp_path), user('a'), answer('b'))
    assert weighted(encoded, tokenizer) == ['b<|user|>']


def test_an_answer_that_nothing_ends_gets_eos():
    source = '{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %} / {% endif %}{% endfor %}'
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    encoded = encode(made, user('a'), answer('b'))
    assert weighted(encoded, tokenizer) == ['b</s>']
    assert any('is added and trained' in note for note in made.notes)


def test_blanks_after_an_answer_that_nothing_ends_give_way_to_eos():
    source = '{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n\n{% endfor %}'
    tokenizer = bytes_tokenizer(source)
    encoded = encode(template(tokenizer), user('a'), answer('b\n'))
    assert weighted(encoded, tokenizer) == ['b\n</s>']
    assert tokenizer.decode(encoded.input_ids) == '### user\na\n\n### assistant\nb\n</s>'


def test_nothing_is_added_after_words_and_that_is_said():
    source = '{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}Judge this.'
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    assert weighted(encode(made, user('a'), answer('b')), tokenizer) == ['b']
    assert any('none is trained' in note for note in made.notes)


def test_a_stop_token_of_generation_config_ends_an_answer(tmp_path):
    source = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n<|call|><|im_end|>{% endfor %}'
    tokenizer = bytes_tokenizer(source)
    id = tokenizer.convert_tokens_to_ids('<|call|>')
    (tmp_path / 'generation_config.json').write_text(f'{{"eos_token_id": [{id}]}}')
    made = template(tokenizer, folder=tmp_path)
    assert weighted(encode(made, user('a'), answer('b')), tokenizer) == ['b\n<|call|>']
    assert id in made.stop_ids


def test_an_end_that_is_no_token_here_is_trained_as_text():
    source = CHATML.replace('<|im_end|>', '<-end->')
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    assert weighted(encode(made, user('a'), answer('b')), tokenizer) == ['b<-end->']
    assert made.stop_text == '<-end->'


def test_an_answer_that_says_the_stop_string_still_ends_with_the_token():
    tokenizer = bytes_tokenizer(CHATML)
    encoded = encode(template(tokenizer), user('a'), answer('say <|im_end|> now'))
    assert weighted(encoded, tokenizer) == ['say <|im_end|> now<|im_end|>']
    assert (encoded.input_ids == tokenizer.eos_token_id).sum() == 2  # the question's and the answer's


def test_an_empty_answer_trains_its_stop_token():
    assert masked(CHATML, user('a'), answer(''), user('c'), answer('d')) == ['<|im_end|>', 'd<|im_end|>']


def test_the_last_message_may_be_a_question():
    assert masked(CHATML, user('a'), answer('b'), user('c')) == ['b<|im_end|>']


def test_a_system_prompt_merged_into_the_first_question_is_not_trained():
    source = (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
        "{% if m.role == 'user' %}[INST] {{ s + '\n\n' + m.content if loop.index0 < 2 else m.content }} [/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    assert masked(source, system('x'), user('a'), answer('b')) == ['b</s>']


def test_generation_blocks_say_what_is_trained():
    """The header inside the block is no answer, the answer outside of it is not trained, the stop token is found."""
    block = '{% generation %}<|im_start|>assistant\n{{ m.content }}{% endgeneration %}<|im_end|>\n'
    plain = '<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n'
    marked = "{% if m.role == 'assistant' and not loop.first %}" + block + '{% else %}' + plain + '{% endif %}'
    source = '{% for m in messages %}' + marked + '{% endfor %}'
    assert masked(source, answer('x'), user('a'), answer('b')) == ['b<|im_end|>']


def test_nothing_is_trained_where_generation_blocks_leave_the_answers_out():
    source = CHATML.replace('{{ m.content }}', '{% generation %}{% endgeneration %}{{ m.content }}')
    assert masked(source, user('a'), answer('b')) == []


# --------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize('source, why', [
    (CHATML.replace('{{ m.content }}', '{{ m.content }}{{ m.content }}'), 'shows message 2 twice'),
    (CHATML.replace('{{ m.content }}', '{{ m.content | upper }}'), 'cannot prove'),
    (CHATML.replace('{{ m.content }}', '{{ m.content | e }}'), 'cannot prove'),
    ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", 'does not show message 2'),
    ("{% for m in messages %}{{ raise_exception('no system here') }}{% endfor %}", 'no system here'),
])  # fmt: skip
def test_what_cannot_be_proven_is_refused(source, why):
    with pytest.raises(RowError, match=why):
        masked(source, user('ask <it>'), answer('tell <it>'))


def test_a_row_with_half_a_character_is_refused():
    with pytest.raises(RowError, match='half a character'):
        masked(CHATML, user('a\ud800'), answer('b'))


def test_a_row_without_messages_is_refused():
    with pytest.raises(RowError, match='no messages'):
        template(bytes_tokenizer(CHATML)).encode(Sample())


@pytest.mark.parametrize('first', [0, 1])
def test_a_row_becomes_the_same_tokens_in_whatever_order_the_rows_come(first):
    source = real_templates().get('qwen3') or CHATML
    rows = [
        (user('a'), answer('b')),
        (user('a </think> <tool_response>'), answer('<think>\nx\n</think>\n\nb')),
        (user(' a'), answer('</think>b\n')),
        (user('c'), answer('d'), user('e'), answer('f')),
    ]
    alone = [encode(template(bytes_tokenizer(source)), *row) for row in rows]
    made = template(bytes_tokenizer(source))
    for number in [first, *range(len(rows)), *reversed(range(len(rows)))]:
        again = encode(made, *rows[number])
        assert again.input_ids.tolist() == alone[number].input_ids.tolist()
        assert again.weight.tolist() == alone[number].weight.tolist()


def test_gpt_oss_s_two_ends_are_trained_even_where_they_are_no_tokens():
    source = CHATML.replace('<|im_end|>', "{{ '[stop]' if loop.last else '[end]' }}")
    assert masked(source, user('a'), answer('b'), user('c'), answer('d')) == ['b[end]', 'd[stop]']


def test_a_header_that_always_comes_last_ends_no_answer():
    """As in GLM Edge, which opens the next answer whether it is asked to or not."""
    assert masked(GLM + '<|assistant|>', user('a'), answer('b')) == ['b']


def test_what_the_template_leaves_out_of_a_row_is_told_once():
    source = CHATML.replace('messages', "messages if m.role != 'system'")
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    for _ in range(2):
        assert weighted(encode(made, system('s'), user('a'), answer('b')), tokenizer) == ['b<|im_end|>']
    assert len(made.notes) == 1 and 'does not show the system message' in made.notes[0]
