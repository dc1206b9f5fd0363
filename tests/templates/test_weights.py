"""--loss_scale: which turns count, and which parts of an answer."""

import json

import pytest

from swift.core.errors import ConfigError
from swift.templates.weights import names, parse
from tests.templates.world import answer, bytes_tokenizer, encode, template, user, weighted

CHATML = '{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}'
TALK = user('a'), answer('b'), user('c'), answer('d')
REACT = 'Thought: so\nAction: look\nAction Input: {}\nObservation: seen\nFinal Answer: x'


def weighed(text, spec, question='?'):
    """(part, weight) of an answer."""
    return [(text[start:end], weight) for start, end, weight in parse(spec).parts(text, question)]


def trained(spec, *messages):
    tokenizer = bytes_tokenizer(CHATML)
    return weighted(encode(template(tokenizer, loss_scale=spec), *messages), tokenizer)


@pytest.mark.parametrize('spec, stretches', [
    ('default', ['b<|im_end|>', 'd<|im_end|>']),
    ('last_round', ['d<|im_end|>']),
    ('all', ['user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n'
             '<|im_start|>assistant\nd<|im_end|>\n']),
])  # fmt: skip
def test_the_base_says_which_turns_are_trained(spec, stretches):
    assert trained(spec, *TALK) == stretches


def test_a_message_s_own_loss_goes_before_the_base():
    assert trained('default', user('a'), answer('b', loss=0.0), user('c'), answer('d')) == ['d<|im_end|>']
    assert trained('last_round', user('a'), answer('b', loss=1.0), user('c'), answer('d')) == [
        'b<|im_end|>',
        'd<|im_end|>',
    ]
    assert 'b<|im_end|>' not in trained('all', user('a'), answer('b', loss=0.0))[0]


def test_a_message_s_loss_is_the_weight_of_its_turn():
    made = template(bytes_tokenizer(CHATML), loss_scale='hermes')
    encoded = encode(made, user('a'), answer('<tool_call>x</tool_call>', loss=0.5))
    assert set(encoded.weight[encoded.weight > 0].tolist()) == {1.0, 0.5}  # 0.5 x 2 in the call, 0.5 at its end


def test_react_weighs_words_and_what_follows_them():
    assert [weight for _, weight in weighed(REACT, 'react')] == [1.0, 2.0, 0.0, 1.0]
    assert ('Observation:', 2.0) not in weighed(REACT, 'react')  # one stretch with the action before it
    assert (' seen\n', 0.0) in weighed(REACT, 'react')


def test_a_regular_expression_weighs_its_matches_across_lines():
    text = 'see <tool_call>\n{}\n</tool_call> ok'
    assert weighed(text, 'hermes') == [('see ', 1.0), ('<tool_call>\n{}\n</tool_call>', 2.0), (' ok', 1.0)]


@pytest.mark.parametrize('think', ['<think>\n\n</think>\n\n', '<think></think>', '</think>\n'])
def test_empty_thinking_weighs_nothing(think):
    assert weighed(f'{think}yes', 'ignore_empty_think') == [(think, 0.0), ('yes', 1.0)]
    assert weighed(f'x{think}yes', 'ignore_empty_think') == [(f'x{think}yes', 1.0)]


def test_rules_in_a_chain_multiply():
    text = '<think>\n</think>\n<tool_call>x</tool_call>'
    assert weighed(text, 'last_round+hermes+ignore_empty_think') == [
        ('<think>\n</think>\n', 0.0), ('<tool_call>x</tool_call>', 2.0)
    ]  # fmt: skip
    assert weighed(REACT, 'react+react')[1][1] == 4.0


def test_agentflan_looks_at_the_question_first():
    assert weighed('Action: x', 'agentflan', 'What is the value of y?') == [('Action: x', 3.0)]
    assert weighed('Action: x', 'agentflan') == [('Action:', 1.0), (' x', 3.0)]


def test_rules_come_from_a_file_too(tmp_path):
    file = tmp_path / 'mine.json'
    file.write_text(json.dumps({'n[o0]pe': [0.5], 'yes+': 3}))
    assert weighed('nope yesss', str(file)) == [('nope', 0.5), (' ', 1.0), ('yesss', 3.0)]


def test_a_token_over_two_weights_has_that_of_its_first_character():
    """The world's byte tokens never do; this tokenizer's ``ab`` does."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(vocab={'a': 0, 'b': 1, 'ab': 2, '?': 3}, merges=[('a', 'b')]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.chat_template = '{% for m in messages %}{{ m.content }}{% endfor %}'
    file_rules = {'a': [5.0, 7.0]}
    made = template(tokenizer)
    from swift.templates.weights import _read

    object.__setattr__(made.scale, 'rules', (_read(file_rules, 'test'),))
    assert encode(made, user('??'), answer('bab')).weight.tolist() == [0, 0, 1, 5]


@pytest.mark.parametrize('spec, words', [
    ('hermse', 'did you mean hermes'),
    ('default+nope', 'Known: default, last_round, all'),
    ('nothing.json', 'neither rules nor a JSON file'),
    ('react+default', 'a base'),
])  # fmt: skip
def test_an_unknown_name_is_refused_with_the_known_ones(spec, words):
    with pytest.raises(ConfigError, match=words):
        parse(spec)


@pytest.mark.parametrize('content, words', [
    ('[1]', 'expected an object'), ('{"a": []}', 'one or two weights'), ('{"a": [-1]}', 'one or two weights'),
    ('{"a(": [1]}', 'no regular expression'), ('{', 'not JSON'), ('{"a": [true]}', 'one or two weights'),
])  # fmt: skip
def test_a_broken_file_of_rules_is_refused(tmp_path, content, words):
    file = tmp_path / 'mine.json'
    file.write_text(content)
    with pytest.raises(ConfigError, match=words):
        parse(str(file))


def test_the_established_names_are_there():
    assert set(names()) == {
        'ignore_empty_think', 'ignore_think_prefix', 'react', 'hermes', 'qwen', 'agentflan', 'alpha_umi'
    }  # fmt: skip
