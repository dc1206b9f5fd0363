"""A chat template read apart into words that other tools can be given."""

import pytest

from swift.bench.dialect import learn
from tests import tiny

ROWS = [
    [{'role': 'user', 'content': 'Who are you?'}, {'role': 'assistant', 'content': 'A model.'}],
    [
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': 'And "you"?'},
        {'role': 'assistant', 'content': 'Yes.\nI am.'},
        {'role': 'user', 'content': 'Where?'},
        {'role': 'assistant', 'content': 'Here.'},
    ],
]
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
)
TEMPLATES = {'ChatML': tiny.CHATML, 'with a default system': SMOLLM2}


@pytest.mark.parametrize('template', TEMPLATES.values(), ids=TEMPLATES)
def test_the_dialect_writes_what_the_template_writes(template):
    tokenizer = tiny.tokenizer(template)
    dialect = learn(tokenizer, ROWS)
    assert dialect is not None
    assert [dialect.write(row) for row in ROWS] == [tokenizer.apply_chat_template(row, tokenize=False) for row in ROWS]
    assert (dialect.stop, dialect.after) == ('<|im_end|>', '\n')


@pytest.mark.parametrize('template', TEMPLATES.values(), ids=TEMPLATES)
def test_its_jinja_renders_the_same_and_marks_the_answers_with_their_stop_tokens(template):
    tokenizer = tiny.tokenizer(template)
    marked = learn(tokenizer, ROWS).jinja()
    for row in ROWS:
        made = tokenizer.apply_chat_template(
            row, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
        )
        assert tokenizer.decode(made['input_ids']) == tokenizer.apply_chat_template(row, tokenize=False)
        learnt = [i for i, mask in zip(made['input_ids'], made['assistant_masks'], strict=True) if mask]
        answers = [message['content'] + '<|im_end|>' for message in row if message['role'] == 'assistant']
        assert tokenizer.decode(learnt) == ''.join(answers)


def test_a_template_that_cannot_be_told_apart_is_left_alone():
    assert learn(tiny.tokenizer("{{ messages[0]['content'] | upper }}"), ROWS) is None
