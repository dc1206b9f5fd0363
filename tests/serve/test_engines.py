"""The younger APIs, and answers that must have a form, whoever answers: ``test_openai`` has the older ones."""

from __future__ import annotations

import json

import anthropic
import pytest

from tests.serve.oracles import Echo
from tests.serve.running import CANARY

WEATHER = {
    'type': 'object',
    'properties': {
        'unit': {'type': 'string', 'enum': ['C', 'F']},
        'days': {'type': 'integer', 'minimum': 0, 'maximum': 9},
    },
    'required': ['unit', 'days'],
    'additionalProperties': False,
}
PLAIN = {'type': 'object', 'properties': {'on': {'type': 'boolean'}}, 'required': ['on']}
OF_OPENAI = [
    {'type': 'function', 'function': {'name': 'weather', 'parameters': WEATHER, 'strict': True}},
    {'type': 'function', 'function': {'name': 'lamp', 'parameters': PLAIN}},
]
OF_RESPONSES = [{'type': 'function', **tool['function']} for tool in OF_OPENAI]
OF_ANTHROPIC = [
    {'name': 'weather', 'input_schema': WEATHER, 'strict': True},
    {'name': 'lamp', 'input_schema': PLAIN},
]
ROOM = 400  # tokens of an answer in a form: a model that has learnt nothing writes many blanks
FORM = {'type': 'json_schema', 'json_schema': {'name': 'answer', 'schema': WEATHER, 'strict': True}}


@pytest.fixture(scope='package')
def claude(served):
    with anthropic.Anthropic(base_url=served[0].url.removesuffix('/v1'), api_key='EMPTY', max_retries=0) as made:
        yield made


@pytest.fixture
def model(oracle):
    """Whether it can be held to a form."""
    if isinstance(oracle, Echo):
        pytest.skip('the fake engine says what it is asked, whatever the grammar')


def user(text):
    return [{'role': 'user', 'content': text}]


def is_right(name, arguments):
    """Whether a call is one of the tools, as its schema has it."""
    if name == 'weather':
        return set(arguments) == {'unit', 'days'} and arguments['unit'] in 'CF' and arguments['days'] <= 9
    return name == 'lamp' and set(arguments) == {'on'} and isinstance(arguments['on'], bool)


# ------------------------------------------------------------------------------------------------------------- words
def test_responses_say_the_same_whole_and_streamed(asking, oracle):
    said = oracle.text(oracle.after(oracle.prompt(CANARY), 16))
    asked = {'model': 'fake', 'input': CANARY, 'max_output_tokens': 16, 'temperature': 0}
    answer = asking.responses.create(**asked)
    assert (answer.output_text, answer.status) == (said, 'incomplete')
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (len(oracle.prompt(CANARY)), 16)
    events = list(asking.responses.create(**asked, stream=True))
    assert ''.join(event.delta for event in events if event.type == 'response.output_text.delta') == said
    assert events[-1].type == 'response.incomplete' and events[-1].response.usage == answer.usage


def test_messages_say_the_same_whole_and_streamed(claude, oracle):
    said = oracle.text(oracle.after(oracle.prompt(CANARY), 16))
    asked = {'model': 'fake', 'messages': user(CANARY), 'max_tokens': 16, 'extra_body': {'temperature': 0}}
    answer = claude.messages.create(**asked)
    assert (''.join(block.text for block in answer.content), answer.stop_reason) == (said, 'max_tokens')
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (len(oracle.prompt(CANARY)), 16)
    with claude.messages.stream(**asked) as stream:
        assert ''.join(stream.text_stream) == said
        assert stream.get_final_message().usage.output_tokens == 16
    counted = claude.messages.count_tokens(model='fake', messages=user(CANARY))
    assert counted.input_tokens == len(oracle.prompt(CANARY))


# -------------------------------------------------------------------------------------------------------------- forms
def test_a_form_is_followed_in_all_apis(asking, claude, model):
    asked = {'model': 'fake', 'messages': user('Weather?'), 'max_tokens': ROOM}
    said = [asking.chat.completions.create(**asked, response_format=FORM, temperature=1).choices[0].message.content]
    text = {'format': {'type': 'json_schema', 'name': 'answer', 'schema': WEATHER, 'strict': True}}
    of_responses = {'model': 'fake', 'input': 'Weather?', 'text': text, 'max_output_tokens': ROOM, 'temperature': 1}
    said.append(asking.responses.create(**of_responses).output_text)
    output = {'format': {'type': 'json_schema', 'schema': WEATHER}}
    answer = claude.messages.create(**asked, output_config=output, extra_body={'temperature': 1})
    said += [block.text for block in answer.content]
    assert len(said) == 3 and all(is_right('weather', json.loads(each)) for each in said)


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('named', [None, 'lamp'])
def test_a_chat_makes_the_call_that_it_must(asking, model, named, stream):
    choice = 'required' if named is None else {'type': 'function', 'function': {'name': named}}
    asked = {'model': 'fake', 'messages': user('Hi'), 'tools': OF_OPENAI, 'tool_choice': choice, 'max_tokens': ROOM}
    for seed in range(2):
        asked |= {'seed': seed, 'parallel_tool_calls': False, 'temperature': 1}
        if stream:
            chunks = [chunk.choices[0] for chunk in asking.chat.completions.create(**asked, stream=True)]
            calls = [call.function for chunk in chunks for call in chunk.delta.tool_calls or ()]
            name, arguments = calls[0].name, ''.join(call.arguments or '' for call in calls)
            finish = chunks[-1].finish_reason
        else:
            [whole] = asking.chat.completions.create(**asked).choices
            [call] = whole.message.tool_calls
            name, arguments, finish = call.function.name, call.function.arguments, whole.finish_reason
        assert named in (None, name) and finish == 'tool_calls' and is_right(name, json.loads(arguments))


@pytest.mark.parametrize('named', [None, 'weather'])
def test_a_response_makes_the_call_that_it_must(asking, model, named):
    choice = 'required' if named is None else {'type': 'function', 'name': named}
    asked = {'model': 'fake', 'input': 'Hi', 'tools': OF_RESPONSES, 'tool_choice': choice, 'max_output_tokens': ROOM}
    asked |= {'parallel_tool_calls': False, 'temperature': 1}
    [call] = asking.responses.create(**asked).output
    *_, last = asking.responses.create(**asked, stream=True)
    for each in (call, *last.response.output):
        assert each.type == 'function_call' and named in (None, each.name)
        assert is_right(each.name, json.loads(each.arguments))


@pytest.mark.parametrize('named', [None, 'weather'])
def test_a_message_makes_the_call_that_it_must(claude, model, named):
    choice = {'type': 'any'} if named is None else {'type': 'tool', 'name': named}
    choice |= {'disable_parallel_tool_use': True}
    asked = {'model': 'fake', 'messages': user('Hi'), 'tools': OF_ANTHROPIC, 'tool_choice': choice, 'max_tokens': ROOM}
    asked['extra_body'] = {'temperature': 1}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        [call] = answer.content
        assert (call.type, answer.stop_reason) == ('tool_use', 'tool_use') and named in (None, call.name)
        assert is_right(call.name, call.input)


def test_strict_tools_leave_an_answer_free(asking, claude, model):
    asked = {'model': 'fake', 'messages': user('Hi'), 'max_tokens': 12}
    [whole] = asking.chat.completions.create(**asked, tools=OF_OPENAI).choices
    assert whole.finish_reason in ('stop', 'length', 'tool_calls')
    answer = asking.responses.create(model='fake', input='Hi', tools=OF_RESPONSES, max_output_tokens=16)
    assert answer.status in ('completed', 'incomplete') and answer.error is None
    assert claude.messages.create(**asked, tools=OF_ANTHROPIC).stop_reason


def test_a_form_that_cannot_be_used_is_an_error_before_the_first_byte(served, model):
    wrong = {**FORM, 'json_schema': {'name': 'x', 'schema': {'type': 'banana'}}}
    body = {'model': 'fake', 'messages': user('Hi'), 'response_format': wrong}
    for stream in (False, True):
        status, said, _ = served[0].post('/v1/chat/completions', {**body, 'stream': stream})
        assert status == 400 and said['error']['type'] == 'invalid_request_error', said
