"""Answers are split into content, reasoning and calls, the same way however the text is cut."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.types import Message, ToolCall
from swift.templates import harmony, thinking
from swift.templates.answers import Answer, Parser, Speech, parser
from swift.templates.calls import ALIASES, FORMATS, by_name, of_template, write
from swift.templates.jinja import Source
from tests.templates import world

TOOLS = [
    {
        'type': 'function',
        'function': {
            'name': 'get_weather',
            'description': 'The weather of a city',
            'parameters': {
                'type': 'object',
                'properties': {
                    'city': {'type': 'string'},
                    'days': {'type': 'integer'},
                    'options': {'type': 'object'},
                },
            },
        },
    },
    {'type': 'function', 'function': {'name': 'stop'}},
]
CALLS = [
    ToolCall('get_weather', {'city': 'Pa"ris\n{', 'days': 2, 'options': {'a': [1, None, '<x>']}}),
    ToolCall('stop', {}),
]
THINK = (('<think>', '</think>'),)
WRITTEN = [form for form in FORMATS.values() if form.body not in ('gemma', 'harmony', 'atem')]
MARKED = [form for form in WRITTEN if not form.bare]


def read(pieces, speech: Speech, **how) -> Answer:
    """What a parser finds in a text that comes in these pieces; ids are c0, c1 ..."""
    ids = iter(range(100))
    how = {'tools': TOOLS, 'new_id': lambda: f'c{next(ids)}', **how}
    made = Parser(speech, **how)
    return Answer.of([delta for piece in pieces for delta in made.push(piece)] + made.end())


def calls(answer: Answer) -> list[tuple[str, dict]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


def cut(text: str, seed: int) -> list[str]:
    chance, pieces = random.Random(seed), []
    while text:
        size = chance.choice([1, 1, 2, 3, 5, 8])
        pieces.append(text[:size])
        text = text[size:]
    return pieces


# ------------------------------------------------------------------------------------------------------------ calls
@pytest.mark.parametrize('form', WRITTEN, ids=lambda form: form.name)
def test_calls_that_were_written_are_read_back(form):
    wanted = [(call.name, call.arguments) for call in CALLS]
    if form.body == 'elements':  # they know no null
        wanted = json.loads(json.dumps(wanted).replace('null', '""'), object_pairs_hook=dict)
        wanted = [tuple(each) for each in wanted]
    answer = read([write(form, CALLS)], Speech(form))
    assert calls(answer) == wanted
    assert not answer.content


@pytest.mark.parametrize('form', MARKED, ids=lambda form: form.name)
def test_text_before_calls_is_content(form):
    answer = read(['Let me see.\n\n' + write(form, CALLS)], Speech(form))
    assert (answer.content, len(answer.calls)) == ('Let me see.', 2)


FRAGMENTS = [
    *' \n{}[]"\',:\\<>|=()é\u00a0',
    'a', '12', 'name', 'arguments', 'get_weather', 'stop', ':0', 'functions.', '{"a": 1}', '<think>', '</think>',
    '{"name": "stop", "arguments": {"x": 1}}', '{"arguments": {"x": 1}, "name": "stop"}', "{'x': None}",
]  # fmt: skip


def fragments(form) -> list[str]:
    """Strings that mean something in a format, and others."""
    if form.body == 'harmony':
        return [*harmony.MARKS, 'assistant', 'analysis', 'final', ' to=functions.stop', *FRAGMENTS]
    own = [form.open, form.name_end, form.close, *form.section, *form.key]
    return [word for word in {*own, *(word.strip() for word in own)} if word] * 3 + FRAGMENTS


@pytest.mark.parametrize('form', FORMATS.values(), ids=lambda form: form.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_however_a_text_is_cut_the_same_is_found(form, data):
    parts = data.draw(st.lists(st.sampled_from(fragments(form)), max_size=12))
    if form in WRITTEN and data.draw(st.booleans()):
        parts.insert(data.draw(st.integers(0, len(parts))), write(form, CALLS))
    text, speech = ''.join(parts), Speech(form, THINK)
    opened = data.draw(st.sampled_from(['', '<think>']))
    whole = read([text], speech, opened=opened)
    assert read(list(text), speech, opened=opened) == whole
    assert read(cut(text, len(text)), speech, opened=opened) == whole


@pytest.mark.parametrize('form', [form for form in FORMATS.values() if form.body != 'harmony'], ids=lambda f: f.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_no_call_stays_content_to_the_last_character(form, data):
    text = ''.join(data.draw(st.lists(st.sampled_from(fragments(form)), max_size=10)))
    answer = read(cut(text, 1), Speech(form))
    assert answer.calls or answer.content == text


BROKEN = [
    '<tool_call>\n{"name": "get_weather", "arguments": oops}\n</tool_call>',
    '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>',
    '<tool_call>\nget_weather(city="Paris")\n</tool_call> and more',
    '<tool_call>\n{"arguments": {"city": "Paris"}}\n</tool_call>',
    '<tool_call>',
    'a <tool_c',
]


@pytest.mark.parametrize('text', BROKEN)
def test_broken_calls_become_content(text):
    answer = read(list(text), Speech(FORMATS['hermes']))
    assert answer == Answer(content=text)


def test_a_broken_call_does_not_hide_the_next_one():
    text = '<tool_call>\nnothing\n</tool_call>\n' + write(FORMATS['hermes'], CALLS[1:])
    answer = read(list(text), Speech(FORMATS['hermes']))
    assert answer.content == '<tool_call>\nnothing\n</tool_call>'
    assert calls(answer) == [('stop', {})]


def test_arguments_grow_while_they_are_written():
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
    made = Parser(Speech(FORMATS['hermes']), TOOLS)
    seen = [made.push(piece) for piece in (text[:44], text[44:60], text[60:70], text[70:])] + [made.end()]
    flat = [delta for deltas in seen for delta in deltas]
    assert [delta.name for delta in flat] == ['get_weather', *[None] * (len(flat) - 1)]
    assert all(deltas for deltas in seen[1:4])
    assert ''.join(delta.text for delta in flat) == '{"city": "Paris", "days": 2}'


def test_texts_in_tags_grow_too():
    made = Parser(Speech(FORMATS['qwen3_coder']), TOOLS)
    made.push('<tool_call>\n<function=get_weather>\n<parameter=city>\nPa')
    assert [delta.text for delta in made.push('r"is')] == ['r\\"is']


def test_the_schema_tells_texts_from_numbers():
    tags = (
        '<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n12\n</parameter>\n'
    )
    answer = read([tags + '</function>\n</tool_call>'], Speech(FORMATS['qwen3_coder']))
    assert calls(answer) == [('get_weather', {'city': '12', 'days': 12})]


def test_python_words_and_python_dicts_become_json():
    react = "Action: get_weather\nAction Input: {'city': 'Paris', 'days': None}\nObservation:"
    assert calls(read([react], Speech(by_name('react_en')))) == [('get_weather', {'city': 'Paris', 'days': None})]
    pythonic = "[get_weather(city='Paris', days=true), stop()]"
    assert calls(read([pythonic], Speech(FORMATS['pythonic']))) == [
        ('get_weather', {'city': 'Paris', 'days': True}),
        ('stop', {}),
    ]


def test_bare_calls_must_name_a_tool_that_there_is():
    text = '{"name": "Bob", "parameters": {"age": 3}}'
    assert read([text], Speech(FORMATS['llama3'])) == Answer(content=text)
    known = text.replace('Bob', 'stop')
    assert calls(read(['<|python_tag|>' + known], Speech(FORMATS['llama3']))) == [('stop', {'age': 3})]


def test_kimi_keeps_its_own_ids():
    answer = read([write(FORMATS['kimi_k2'], CALLS)], Speech(FORMATS['kimi_k2']))
    assert [call.id for call in answer.calls] == ['functions.get_weather:0', 'functions.stop:1']


def test_without_tools_nothing_is_a_call():
    text = write(FORMATS['hermes'], CALLS)
    assert read([text], Speech(FORMATS['hermes']), tools=()) == Answer(content=text)


def test_gemma_writes_values_in_its_own_notation():
    text = '<|tool_call>call:get_weather{city:<|"|>Pa"r,is<|"|>,days:2,options:{a:[1,null],b:true}}<tool_call|>'
    expected = {'city': 'Pa"r,is', 'days': 2, 'options': {'a': [1, None], 'b': True}}
    assert calls(read(list(text), Speech(FORMATS['gemma4']))) == [('get_weather', expected)]


NS = ']<]minimax[>['
WRITTEN_BY_MODELS = {
    'hy_v3': '<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city'
    '</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n<arg_key:opensource>days'
    '</arg_key:opensource>\n<arg_value:opensource>2</arg_value:opensource>\n</tool_call:opensource>\n'
    '</tool_calls:opensource>',
    'hy_v3_preview': '<tool_calls>\n<tool_call>get_weather<tool_sep>\n<arg_key>city</arg_key>\n<arg_value>Paris'
    '</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n</tool_calls>',
    'kimi_k3': 'One moment.<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
    '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|><|open|>argument key="days" '
    'type="number"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>',
    'minimax_m3': f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<city>Paris{NS}</city>{NS}<days>2{NS}</days>'
    f'{NS}</invoke>\n{NS}</tool_call>',
    'muse_glimmer': ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
    '<atem:parameter name="city">Paris</atem:parameter>\n<atem:parameter name="days">2</atem:parameter>\n'
    '</atem:invoke>\n</atem:function_calls><|eom|><|start|>assistant to=user<|message|>One moment.<|eot|>',
}


@pytest.mark.parametrize('name', WRITTEN_BY_MODELS)
def test_what_models_of_a_format_write_is_read(name):
    text, speech = WRITTEN_BY_MODELS[name], Speech(FORMATS[name])
    for pieces in ([text], list(text), cut(text, 5)):
        answer = read(pieces, speech)
        assert calls(answer) == [('get_weather', {'city': 'Paris', 'days': 2})]
        assert answer.content in ('', 'One moment.')


def test_elements_in_elements_are_objects_and_lists_and_the_schema_tells_texts_from_numbers():
    parameters = {'type': 'object', 'properties': {'to': {'properties': {'zip': {'type': 'string'}}}}}
    tools = [{'type': 'function', 'function': {'name': 'send', 'parameters': parameters}}]
    text = (
        f'{NS}<tool_call>{NS}<invoke name="send">{NS}<to>{NS}<zip>0123{NS}</zip>{NS}<to>{NS}<n>7{NS}</n>{NS}</to>'
        f'{NS}</to>{NS}<parts>{NS}<item>1{NS}</item>{NS}<item>{NS}<a>x{NS}</a>{NS}</item>{NS}</parts>{NS}</invoke>{NS}</tool_call>'
    )
    expected = {'to': {'zip': '0123', 'to': {'n': 7}}, 'parts': [1, {'a': 'x'}]}
    assert calls(read(list(text), Speech(FORMATS['minimax_m3']), tools=tools)) == [('send', expected)]
    deep = f'{NS}<tool_call>{NS}<invoke name="send">' + f'{NS}<a>' * 2000
    assert read([deep], Speech(FORMATS['minimax_m3']), tools=tools).calls


def test_muse_has_a_recipient_for_each_kind():
    text = ' to=self<|message|>They want weather.<|eom|><|start|>assistant to=user<|message|>It is sunny.<|eot|>'
    assert read(list(text), Speech(FORMATS['muse_glimmer'])) == Answer('It is sunny.', 'They want weather.')


def test_wrappers_of_what_is_said_are_no_part_of_it():
    form = FORMATS['kimi_k3']
    text = 'A plan.<|close|>think<|sep|><|open|>response<|sep|>Hello<|close|>response<|sep|><|close|>message<|sep|>'
    tags = (('<|open|>think<|sep|>', '<|close|>think<|sep|>'),)
    for tools in (TOOLS, ()):
        assert read(list(text), Speech(form, tags), tools=tools, opened=tags[0][0]) == Answer('Hello', 'A plan.')


@pytest.mark.parametrize(
    ('name', 'source', 'tag'),
    [
        (
            'hy_v3',
            "{% set HYTK = ':opensource' %}{{ '<think{}>'.format(HYTK) + '<tool_sep{}>'.format(HYTK) }}",
            '<think:',
        ),
        ('hy_v3_preview', "{{ '<tool_calls>' + '<tool_call>' + '<tool_sep>' + '<arg_key>' + '<think>' }}", '<think>'),
        ('kimi_k3', "{{ '<|open|>' + '<|sep|>' + open_tag('argument', []) + open_tag('think') }}", '<|open|>think'),
        ('minimax_m3', f"{{% set ns = '{NS}' %}}{{{{ ns ~ '<invoke name=' ~ '<mm:think>' }}}}", '<mm:think>'),
        ('muse_glimmer', "{{ '<atem:function_calls>' + '<|message|>' }}", ''),
    ],
)
def test_templates_of_these_formats_are_told_by_what_stands_in_them(name, source, tag):
    assert of_template(source + '{{ tools }}') == FORMATS[name]
    tags = thinking.spoken(Source(source))
    assert [open[: len(tag)] for open, _ in tags] == ([tag] if tag else [])


def test_harmony_has_a_channel_for_each_kind():
    text = (
        '<|channel|>analysis<|message|>They want weather.<|end|><|start|>assistant<|channel|>commentary<|message|>'
        'One moment.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json'
        '<|message|>{"city": "Paris"}<|call|>'
    )
    answer = read(list(text), Speech(FORMATS['harmony']))
    assert (answer.reasoning, answer.content) == ('They want weather.', 'One moment.')
    assert calls(answer) == [('get_weather', {'city': 'Paris'})]
    assert read(['<|channel|>final<|message|>It is sunny.'], Speech(FORMATS['harmony'])).content == 'It is sunny.'


# -------------------------------------------------------------------------------------------------------- reasoning
@pytest.mark.parametrize(
    ('text', 'opened', 'content', 'reasoning'),
    [
        ('<think>\nA plan.\n</think>\n\nThe answer.', '', 'The answer.', 'A plan.'),
        ('A plan.\n</think>\n\nThe answer.', '<think>', 'The answer.', 'A plan.'),
        ('<think>\nA plan.</think>The answer.', '<think>', 'The answer.', 'A plan.'),
        ('<think>\n\n</think>\n\nThe answer.', '', 'The answer.', ''),
        ('Never closed', '<think>', '', 'Never closed'),
        ('The answer.', '', 'The answer.', ''),
        ('Say <think> to think.', '', 'Say <think> to think.', ''),
        ('  indented', '', '  indented', ''),
        ('', '<think>', '', ''),
    ],
)
def test_reasoning_is_told_from_the_answer(text, opened, content, reasoning):
    expected = Answer(content, reasoning)
    for pieces in ([text], list(text), cut(text, 3)):
        assert read(pieces, Speech(None, THINK), opened=opened) == expected


@pytest.mark.parametrize('tags', [*thinking.TAGS, thinking.SPOKEN], ids=lambda tags: tags[0].strip())
def test_every_way_to_mark_reasoning_is_known(tags):
    open, close = (tag.strip() for tag in tags)
    answer = read(list(f'{open}\nA plan.\n{close}\nThe answer.'), Speech(None, ((open, close),)))
    assert (answer.reasoning, answer.content) == ('A plan.', 'The answer.')


def test_reasoning_stays_where_it_is_if_it_is_not_wanted():
    text = '<think>\nA plan.\n</think>\n\nThe answer.'
    assert read([text], Speech(None, THINK), reasoning=False) == Answer(content=text)


def test_calls_may_follow_reasoning():
    answer = read(
        list('<think>\nA plan.\n</think>\n\n' + write(FORMATS['hermes'], CALLS)), Speech(FORMATS['hermes'], THINK)
    )
    assert (answer.reasoning, answer.content, len(answer.calls)) == ('A plan.', '', 2)


# ----------------------------------------------------------------------------------------------------- real templates
NOT_READ = {'lfm2', 'lfm2_training'}
TALKING = [
    name
    for name, text in world.real_templates().items()
    if 'tools' in text and of_template(text) and name not in NOT_READ and not name.endswith('_training')
]


@pytest.mark.parametrize('name', TALKING)
def test_what_a_real_template_writes_is_read_back(name):
    _, template = world.real(name)
    asked = (Message('user', 'Weather?'),)
    wanted = ToolCall('get_weather', {'city': 'Paris', 'days': 2}, id='abcdefghi')
    encoded = world.encode(template, *asked, Message('assistant', '', tool_calls=(wanted,)), tools=tuple(TOOLS[:1]))
    ids = [int(id) for id, weight in zip(encoded.input_ids, encoded.weight, strict=True) if weight]
    made = parser(template, tools=TOOLS[:1])
    deltas = [delta for id in ids for delta in made.push(template.decode([id]))] + made.end()
    assert calls(Answer.of(deltas)) == [('get_weather', {'city': 'Paris', 'days': 2})]


def test_a_prompt_that_opens_the_reasoning_is_seen():
    _, template = world.real('qwen3_5_think')
    prompt = template.prompt([Message('user', 'Hi')])
    made = parser(template, prompt_ids=prompt)
    assert Answer.of(made.push('Hm.</think>\n\nHello') + made.end()) == Answer('Hello', 'Hm.')
    closed = template.prompt([Message('user', 'Hi')], enable_thinking=False)
    made = parser(template, prompt_ids=closed)
    assert Answer.of(made.push('Hello') + made.end()) == Answer('Hello')


def test_names_of_formats_are_known_and_others_are_refused():
    for name in (*FORMATS, *ALIASES):
        assert by_name(name)
    with pytest.raises(Exception, match='did you mean hermes'):
        by_name('hermess')


def test_a_template_without_tools_speaks_no_format():
    assert of_template("{{ messages[0]['content'] }} <tool_call>") is None
    assert thinking.spoken(Source("{{ messages[0]['content'] }}")) == ()
