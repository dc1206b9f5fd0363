"""The text and the ids are those of the checkpoint's own template and tokenizer."""

from datetime import datetime

import pytest

from swift.core.errors import RowError, TemplateError
from swift.templates.jinja import Failure, Refusal, Renderer, Source
from tests.templates.world import (
    ORIGINALS,
    answer,
    bytes_tokenizer,
    dicts,
    encode,
    real_templates,
    system,
    template,
    user,
)

NOW = datetime(2026, 3, 4, 5, 6)
TALK = (user(' Which  one?\n'), answer('The first,\nI "think".'), user('And then?'), answer('你好 🌍'))
PARAMETERS = {'type': 'object', 'properties': {'what': {'type': 'string', 'description': 'It.'}}, 'required': ['what']}
TOOL = {'type': 'function', 'function': {'name': 'find', 'description': 'Find it.', 'parameters': PARAMETERS}}


def rendered(source, messages=(), **more):
    return Renderer(Source(source), {'bos_token': '<s>'}, now=NOW)(messages, **more)


@pytest.mark.parametrize('name', ORIGINALS)
@pytest.mark.parametrize('prompt', [False, True])
def test_rendering_equals_that_of_transformers(name, prompt):
    tokenizer = bytes_tokenizer(real_templates()[name])
    renderer = Renderer(Source(tokenizer.chat_template), tokenizer.special_tokens_map, now=datetime.now())
    for messages in (TALK, TALK[:3], (system('Be brief.'), *TALK)):
        for tools in (None, [TOOL]):
            told = [{**each, 'reasoning_content': 'So.', 'thinking': 'So.'} if each['role'] == 'assistant' else each
                    for each in dicts(messages)]  # fmt: skip
            try:
                theirs = tokenizer.apply_chat_template(told, tools=tools, add_generation_prompt=prompt, tokenize=False)
            except Exception:
                with pytest.raises(RowError):
                    renderer(told, tools=tools, prompt=prompt)
            else:
                assert renderer(told, tools=tools, prompt=prompt) == theirs


@pytest.mark.parametrize('name', ORIGINALS)
def test_ids_equal_those_of_apply_chat_template(name):
    tokenizer = bytes_tokenizer(real_templates()[name])
    made = template(tokenizer)
    for messages in (TALK, (system('Be brief.'), *TALK)):
        told = dicts(messages)
        if made._reader(tools=False).style.parts:
            told = [{**each, 'content': [{'type': 'text', 'text': each['content']}]} for each in told]
        try:
            theirs = tokenizer.apply_chat_template(told, return_dict=False)
        except Exception:
            with pytest.raises(RowError):
                encode(made, *messages)
        else:
            assert encode(made, *messages).input_ids.tolist()[: len(theirs)] == theirs


def test_the_clock_stands_still_for_the_run():
    source = '{{ strftime_now("%d %B %Y %H:%M") }}{% for m in messages %}{{ m.content }}{% endfor %}'
    assert rendered(source) == '04 March 2026 05:06'


def test_a_date_of_the_template_is_never_trained_and_decides_the_fingerprint():
    source = '{% for m in messages %}<|{{ m.role }}|>{{ strftime_now("%Y") }} {{ m.content }}<|im_end|>{% endfor %}'
    tokenizer = bytes_tokenizer(source)
    made = [template(tokenizer, now=datetime(year, 1, 1, hour)) for year, hour in ((2026, 1), (2026, 2), (2027, 1))]
    assert encode(made[0], user('a'), answer('b')).weight.sum() == 2
    assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint


def test_generation_blocks_leave_no_trace_in_the_text():
    source = '{% for m in messages %}{% generation %}[{{ m.content }}]{% endgeneration %}{% endfor %}'
    assert rendered(source, [{'role': 'user', 'content': 'a'}]) == '[a]'


def test_json_is_written_as_transformers_writes_it():
    assert rendered('{{ x | tojson(indent=1) }}', variables={'x': {'ä': '<'}}) == '{\n "ä": "<"\n}'
    assert rendered('{{ x | tojson(ensure_ascii=True) }}', variables={'x': 'ä'}) == '"\\u00e4"'


def test_what_the_template_says_by_raise_exception_is_told():
    with pytest.raises(Refusal, match='refuses this row: roles must alternate'):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    'source', ['{{ missing.name }}', '{{ 1 / 0 }}', '{{ messages[0].content + 1 }}', '{{ [].append(1) }}']
)
def test_a_template_that_breaks_is_an_error_of_the_row(source):
    with pytest.raises(Failure, match='fails on this row'):
        rendered(source, [{'role': 'user', 'content': 'a'}])


@pytest.mark.parametrize(
    'source', ['{{ "".__class__.__mro__ }}', '{% set ns = namespace() %}{% set ns.__x = 1 %}', '{{ namespace(__x=1) }}']
)
def test_a_template_cannot_reach_python(source):
    with pytest.raises(Failure, match='SecurityError'):
        rendered(source)


def test_a_syntax_error_names_the_line():
    with pytest.raises(TemplateError, match=r'mine\.jinja: line 2: '):
        Renderer(Source('a\n{% if %}', 'mine.jinja'), {}, now=NOW)
