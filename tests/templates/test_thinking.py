"""Reasoning reaches the template in the form that it understands, and what is shown is what is trained."""

import pytest

from tests.templates.world import answer, bytes_tokenizer, encode, real, real_templates, template, user, weighted

INLINE = '<think>\nBecause {0}\n</think>\n\nAnswer {0}'
QUESTIONS = user('Question one'), user('Query two')
needs_trl = pytest.mark.skipif(not real_templates(), reason='trl is not installed')


def shown(name, *messages, **flags):
    tokenizer, made = real(name, **flags)
    return weighted(encode(made, *messages), tokenizer), made


def inline():
    return QUESTIONS[0], answer(INLINE.format('one')), QUESTIONS[1], answer(INLINE.format('two'))


def apart():
    one, two = (answer(f'Answer {n}', reasoning=f'Because {n}') for n in ('one', 'two'))
    return QUESTIONS[0], one, QUESTIONS[1], two


@needs_trl
@pytest.mark.parametrize('row', [inline, apart])
@pytest.mark.parametrize('name, stretches', [
    # earlier reasoning is stripped; the tag that opens the last one is the model's to write
    ('qwen3', ['Answer one<|im_end|>', '<think>\nBecause two\n</think>\n\nAnswer two<|im_end|>']),
    # the generation prompt opens the thinking, so the tag is a header
    ('qwen3_5_think', ['Answer one<|im_end|>', 'Because two\n</think>\n\nAnswer two<|im_end|>']),
    ('glm4moe', ['Answer one<|user|>', '\n<think>Because two</think>\nAnswer two<|user|>']),
    ('gptoss', ['Answer one<|end|>', '<|channel|>analysis<|message|>Because two<|end|>'
                '<|start|>assistant<|channel|>final<|message|>Answer two<|return|>']),
    # knows no reasoning: it stays in the content
    ('llama3', [f'{INLINE.format(n)}<|eot_id|>' for n in ('one', 'two')]),
])  # fmt: skip
def test_reasoning_is_trained_as_rendered(name, stretches, row):
    assert shown(name, *row())[0] == stretches


@needs_trl
def test_reasoning_that_the_template_cuts_away_is_not_trained():
    assert [each.strip() for each in shown('deepseek_r1_distill', *inline())[0]] == [
        'Answer one<｜end▁of▁sentence｜>', 'Answer two<｜end▁of▁sentence｜>'
    ]  # fmt: skip


@needs_trl
@pytest.mark.parametrize('name', ['qwen3', 'qwen3_5_nothink', 'glm4moe', 'nemotron_3_nano'])
def test_thinking_that_the_template_opens_and_closes_itself_is_not_trained(name):
    stretches, _ = shown(name, QUESTIONS[0], answer('Answer'))
    assert len(stretches) == 1
    assert stretches[0].startswith('Answer')


@needs_trl
def test_lost_reasoning_is_told_once():
    _, made = shown('gemma4', QUESTIONS[0], answer('Answer', reasoning='Because'))
    assert sum('does not show the reasoning' in note for note in made.notes) == 1


@needs_trl
def test_enable_thinking_reaches_prompt_and_rows():
    tokenizer = bytes_tokenizer(real_templates()['qwen3'])
    said = lambda **flags: tokenizer.decode(template(tokenizer, **flags).prompt([QUESTIONS[0]]))
    assert said(enable_thinking=False).endswith('<think>\n\n</think>\n\n')
    assert not said(enable_thinking=True).endswith('</think>\n\n')
    assert template(tokenizer).prompt([QUESTIONS[0]], enable_thinking=False) == tokenizer.encode(
        said(enable_thinking=False)
    )


def test_flags_without_effect_are_told():
    made = template(
        bytes_tokenizer('{{ messages[0].content }}'), enable_thinking=True, preserve_thinking=True,
        add_non_thinking_prefix=False,
    )  # fmt: skip
    assert [note.split(':')[0] for note in made.notes] == [
        '--enable_thinking', '--preserve_thinking', '--add_non_thinking_prefix false'
    ]  # fmt: skip


RAW = '{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}'
EMPTY = '<think>\n\n</think>\n\nAnswer'


def test_a_hybrid_family_does_not_learn_empty_thinking_of_its_rows():
    tokenizer = bytes_tokenizer(RAW + '{# <think></think> #}')
    row = (QUESTIONS[0], answer(EMPTY))
    trained = lambda **flags: weighted(encode(template(tokenizer, **flags), *row), tokenizer)
    assert trained() == [f'{EMPTY}<|im_end|>']
    assert trained(thinking=True) == ['Answer<|im_end|>']
    assert trained(thinking=True, disable_ignore_empty_think=True) == [f'{EMPTY}<|im_end|>']


def test_tags_of_thinking_are_tokens_in_answers_and_text_in_questions():
    tokenizer = bytes_tokenizer(RAW + "{{ '' if true else '<think></think>' }}")
    tags = {tokenizer.convert_tokens_to_ids(tag) for tag in ('<think>', '</think>')}
    ids = encode(template(tokenizer), user('why <think> a </think>?'), answer(EMPTY)).input_ids.tolist()
    assert [id for id in ids if id in tags] == sorted(tags)
    assert tokenizer.decode(ids).startswith('user: why <think> a </think>?')
