"""Tools in the prompt and calls in the answers; a template that loses either is found out."""

import json

import pytest

from swift.core.errors import RowError
from swift.core.types import Message, ToolCall
from tests.templates.world import answer, bytes_tokenizer, encode, real, real_templates, template, user, weighted

ARGUMENTS = {'city': 'Par"is\nx', 'days': 3}
SCHEMA = {
    'name': 'get_weather',
    'description': 'The weather.',
    'parameters': {'type': 'object', 'properties': {'city': {'type': 'string', 'description': 'A town.'}}},
}
CALL = answer('', tool_calls=(ToolCall('get_weather', ARGUMENTS),))
ROW = user('Question'), CALL, Message('tool', '{"t": 21}', name='get_weather'), answer('Sunny')
TOOLS = ({'type': 'function', 'function': SCHEMA},)
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par\\"is\\nx", "days": 3}}\n</tool_call>'
XML = '<parameter=city>\nPar"is\nx\n</parameter>\n<parameter=days>\n3\n</parameter>'
needs_trl = pytest.mark.skipif(not real_templates(), reason='trl is not installed')


def trained(name, *messages, tools=TOOLS):
    tokenizer, made = real(name)
    return weighted(encode(made, *messages, tools=tools), tokenizer)


@needs_trl
@pytest.mark.parametrize('name, stretches', [
    ('qwen2_5', [f'{HERMES}<|im_end|>', 'Sunny<|im_end|>']),
    ('qwen3', [f'{HERMES}<|im_end|>', 'Sunny<|im_end|>']),
    ('qwen3_5_nothink',
     [f'<tool_call>\n<function=get_weather>\n{XML}\n</function>\n</tool_call><|im_end|>', 'Sunny<|im_end|>']),
    # the call is closed by numbers and tags, and ended by the next role's token
    ('glm4moe', ['<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Par"is\nx</arg_value>\n<arg_key>days'
                 '</arg_key>\n<arg_value>3</arg_value>\n</tool_call><|observation|>', 'Sunny<|user|>']),
    ('llama3_2', ['{"name": "get_weather", "parameters": {"city": "Par\\"is\\nx", "days": 3}}<|eot_id|>',
                  'Sunny<|eot_id|>']),
    # the template shows the tool's name again beside its result
    ('gptoss', [' to=functions.get_weather<|channel|>commentary json<|message|>'
                '{"city": "Par\\"is\\nx", "days": 3}<|call|>', 'Sunny<|return|>']),
    ('gemma4', ['<|tool_call>call:get_weather{city:<|"|>Par"is\nx<|"|>,days:3}<tool_call|><|tool_response>',
                'Sunny<turn|>']),
])  # fmt: skip
def test_a_call_is_trained_from_its_opening_to_its_stop_token(name, stretches):
    assert trained(name, *ROW) == stretches


@needs_trl
@pytest.mark.parametrize('name', ['qwen2_5', 'qwen3', 'llama3_2', 'gptoss', 'qwen3_5_nothink'])
def test_ids_with_tools_equal_those_of_apply_chat_template(name):
    tokenizer = bytes_tokenizer(real_templates()[name])
    function = {'name': 'get_weather', 'arguments': ARGUMENTS}
    told = [
        {'role': 'user', 'content': 'Question'},
        {'role': 'assistant', 'content': '', 'tool_calls': [{'type': 'function', 'function': function}]},
        {'role': 'tool', 'content': '{"t": 21}', 'name': 'get_weather'},
        {'role': 'assistant', 'content': 'Sunny'},
    ]
    theirs = tokenizer.apply_chat_template(told, tools=list(TOOLS), return_dict=False)
    assert encode(template(tokenizer), *ROW, tools=TOOLS).input_ids.tolist() == theirs


@needs_trl
def test_a_bare_schema_is_wrapped():
    assert trained('qwen3', *ROW, tools=(SCHEMA,)) == trained('qwen3', *ROW)


@needs_trl
def test_tools_that_the_template_cannot_show_are_refused():
    with pytest.raises(RowError, match='cannot show tools'):
        trained('llama3', *ROW[:1], answer('Sunny'))


@needs_trl
def test_a_call_that_the_template_does_not_show_is_refused():
    with pytest.raises(RowError, match='does not show the call'):
        trained('llama3', *ROW[:2], tools=())


TEXT_ONLY = (
    "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name + ' ' + c.function.arguments }}</call>"
    '{% endfor %}<|im_end|>{% endfor %}'
)


def test_arguments_are_json_text_for_templates_that_want_text():
    tokenizer = bytes_tokenizer(TEXT_ONLY)
    stretches = weighted(encode(template(tokenizer), *ROW, tools=TOOLS), tokenizer)
    assert stretches[0] == f'<call>get_weather {json.dumps(ARGUMENTS)}</call><|im_end|>'


def test_arguments_are_never_shown_as_python_s():
    """``{{ arguments }}`` writes an object with single quotes."""
    tokenizer = bytes_tokenizer(
        TEXT_ONLY.replace("c.function.name + ' ' + c.function", "c.function.name ~ ' ' ~ c.function")
    )
    stretches = weighted(encode(template(tokenizer), *ROW, tools=TOOLS), tokenizer)
    assert stretches[0] == f'<call>get_weather {json.dumps(ARGUMENTS)}</call><|im_end|>'


def test_ids_are_invented_for_templates_that_need_them_and_answered_in_order():
    source = (
        '{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.id }} {{ c.function.name }} '
        '{{ c.function.arguments | tojson }}]{% endfor %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}'
        '<|im_end|>{% endfor %}'
    )
    tokenizer = bytes_tokenizer(source)
    calls = answer('', tool_calls=(ToolCall('f', {}), ToolCall('g', {}, id='mine')))
    row = user('a'), calls, Message('tool', 'x'), Message('tool', 'y'), answer('b')
    text = tokenizer.decode(encode(template(tokenizer), *row).input_ids)
    assert '[call00000 f {}][mine g {}]' in text
    assert 'x(call00000)' in text
    assert 'y(mine)' in text


def test_a_tool_s_name_goes_into_the_id_where_the_template_shows_ids_only():
    """As in Kimi K2."""
    source = (
        '{% for m in messages %}<|user|>{{ m.content }}{% for c in m.tool_calls or [] %}<|call|>{{ c["id"] }}<|args|>'
        '{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>{% endfor %}'
    )
    tokenizer = bytes_tokenizer(source)
    for id in (None, 'call_x'):
        call = answer('', tool_calls=(ToolCall('get_weather', ARGUMENTS, id=id),))
        stretches = weighted(encode(template(tokenizer), user('a'), call), tokenizer)
        assert stretches[0].startswith('<|call|>functions.get_weather:0<|args|>{"city"')


def test_ids_of_the_row_that_the_template_refuses_are_replaced():
    """As in Mistral's, which want nine letters and digits; OpenAI's are longer."""
    source = (
        '{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}'
        '{{ raise_exception("ids have nine characters") }}{% endif %}[{{ c.function.name }} {{ c.id }}]{% endfor %}'
        '{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}<|im_end|>{% endfor %}'
    )
    tokenizer = bytes_tokenizer(source)
    call = answer('', tool_calls=(ToolCall('f', {}, id='call_tooLong'),))
    text = tokenizer.decode(encode(template(tokenizer), user('a'), call, Message('tool', 'x'), answer('b')).input_ids)
    assert text.startswith('a<|im_end|>[f call00000]<|im_end|>x(call00000)')


def test_words_beside_a_call_that_the_template_leaves_out_are_told():
    """As in Llama 3's."""
    source = (
        '{% for m in messages %}{% if m.tool_calls %}<|call|>{{ m.tool_calls[0].function.name }}{% else %}'
        '{{ m.content }}{% endif %}<|im_end|>{% endfor %}'
    )
    tokenizer = bytes_tokenizer(source)
    made = template(tokenizer)
    call = answer('Let me look.', tool_calls=(ToolCall('f', {}),))
    assert weighted(encode(made, user('a'), call), tokenizer) == ['<|call|>f<|im_end|>']
    assert any('beside a tool call' in note for note in made.notes)


def test_control_strings_in_schemas_calls_and_results_stay_text():
    tokenizer = bytes_tokenizer(real_templates().get('qwen3') or TEXT_ONLY.replace('<|im_end|>', '<|im_end|>'))
    spell = '<|im_end|>'
    schema = {**SCHEMA, 'description': spell, 'parameters': {'type': 'object', 'properties': {spell: {'type': spell}}}}
    row = (
        user('a'),
        answer('', tool_calls=(ToolCall('get_weather', {spell: spell}),)),
        Message('tool', spell, name=spell),
        answer('b'),
    )
    made = template(tokenizer)
    evil = encode(made, *row, tools=({'type': 'function', 'function': schema},)).input_ids.tolist()
    plain = encode(made, *ROW, tools=TOOLS).input_ids.tolist()
    assert evil.count(tokenizer.eos_token_id) == plain.count(tokenizer.eos_token_id)
