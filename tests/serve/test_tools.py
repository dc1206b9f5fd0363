"""Tools through the API, by OpenAI's own client: calls and reasoning that a model writes, calls that it must make."""

from __future__ import annotations

import json
from types import SimpleNamespace

import openai
import pytest

from swift.core.types import ToolCall
from swift.engines.api import ChatEngine
from swift.engines.native.engine import NativeEngine
from swift.engines.native.scheduler import Limits
from swift.templates.answers import Speech
from swift.templates.calls import FORMATS, write
from tests import tiny
from tests.engines.plain import PlainTemplate
from tests.serve.running import house, running

TOOLS = [
    {
        'type': 'function',
        'function': {
            'name': 'get_weather',
            'parameters': {
                'type': 'object',
                'properties': {'unit': {'type': 'string', 'enum': ['C', 'F']}},
                'required': ['unit'],
                'additionalProperties': False,
            },
        },
    },
    {'type': 'function', 'function': {'name': 'stop'}},
]
SPEECH = Speech(FORMATS['hermes'], (('<think>', '</think>'),))
CALL = write(FORMATS['hermes'], [ToolCall('get_weather', {'unit': 'C'}), ToolCall('stop', {})])
SAID = f'<think>\nWhich unit?\n</think>\n\nOne moment.\n{CALL}'


def user(text):
    return [{'role': 'user', 'content': text}]


@pytest.fixture(scope='module')
def echo():
    """A client of a server whose engine says what it is asked."""
    made = house()
    made.chat.template.speech = SPEECH
    made.chat.template.tokenizer = SimpleNamespace(
        decode=lambda ids, **how: bytes(ids).decode(errors='replace'), added_tokens_decoder={}
    )
    with running(made) as server, openai.OpenAI(base_url=server.url, api_key='-', max_retries=0) as client:
        yield client
        server.is_well()


def test_an_answer_comes_apart_into_reasoning_content_and_calls(echo):
    answer = echo.chat.completions.create(model='fake', messages=user(SAID), tools=TOOLS)
    [choice] = answer.choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [('get_weather', '{"unit": "C"}'), ('stop', '{}')]
    assert (choice.finish_reason, choice.message.content) == ('tool_calls', 'One moment.')
    assert choice.message.reasoning_content == 'Which unit?'
    assert len({call.id for call in choice.message.tool_calls}) == 2


def test_a_stream_gives_the_same_piece_by_piece(echo):
    chunks = [
        chunk.choices[0]
        for chunk in echo.chat.completions.create(model='fake', messages=user(SAID), tools=TOOLS, stream=True)
    ]
    deltas = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert [(call.index, call.function.name) for call in deltas if call.function.name] == [
        (0, 'get_weather'),
        (1, 'stop'),
    ]
    written = [''.join(call.function.arguments or '' for call in deltas if call.index == i) for i in (0, 1)]
    assert written == ['{"unit": "C"}', '{}']
    assert ''.join(chunk.delta.content or '' for chunk in chunks) == 'One moment.'
    assert ''.join(getattr(chunk.delta, 'reasoning_content', None) or '' for chunk in chunks) == 'Which unit?'
    assert chunks[-1].finish_reason == 'tool_calls'


def test_a_forced_call_and_a_form_exclude_each_other(echo):
    with pytest.raises(openai.BadRequestError) as caught:
        echo.chat.completions.create(
            model='fake',
            messages=user('Hi'),
            tools=TOOLS,
            tool_choice='required',
            response_format={'type': 'json_object'},
        )
    assert caught.value.param == 'tool_choice'


def test_strict_tools_and_a_form_are_taken_together_and_the_form_is_followed(echo):
    strict = [{'type': 'function', 'function': {**TOOLS[0]['function'], 'strict': True}}]
    form = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': {'type': 'object'}}}
    for more in ({}, {'response_format': form}):
        answer = echo.chat.completions.create(model='fake', messages=user('{}'), tools=strict, **more)
        assert answer.choices[0].message.content == '{}'


@pytest.fixture(scope='module')
def chance():
    """A client of a server whose model has learnt nothing."""
    template = PlainTemplate()
    template.speech = Speech(FORMATS['hermes'])  # without reasoning, of which such a model finds no end
    limits = Limits(max_model_len=1024)
    engine = NativeEngine(tiny.model(), decode=template.decode, limits=limits, tokenizer=template.tokenizer)
    made = house(engine)
    made.chat = ChatEngine(engine, template, model_name='fake', max_model_len=1024)
    with running(made) as server, openai.OpenAI(base_url=server.url, api_key='-', max_retries=0) as client:
        yield client


@pytest.mark.parametrize('stream', [False, True])
def test_a_tool_that_is_named_is_called_by_any_model(chance, stream):
    asked = {
        'model': 'fake',
        'messages': user('Hi'),
        'tools': TOOLS,
        'tool_choice': {'type': 'function', 'function': {'name': 'get_weather'}},
        'temperature': 1,
        'max_tokens': 400,
    }
    for seed in range(4):
        if stream:
            chunks = [chunk.choices[0] for chunk in chance.chat.completions.create(**asked, seed=seed, stream=True)]
            calls = [call.function for chunk in chunks for call in chunk.delta.tool_calls or ()]
            name, arguments = calls[0].name, ''.join(call.arguments or '' for call in calls)
            finish = chunks[-1].finish_reason
        else:
            [choice] = chance.chat.completions.create(**asked, seed=seed).choices
            [call] = choice.message.tool_calls or [None]
            name, arguments, finish = call.function.name, call.function.arguments, choice.finish_reason
        assert (name, finish) == ('get_weather', 'tool_calls')
        assert json.loads(arguments)['unit'] in ('C', 'F')


def test_a_schema_that_cannot_be_used_is_an_error_before_the_first_byte(chance):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            chance.chat.completions.create(
                model='fake',
                messages=user('Hi'),
                stream=stream,
                response_format={'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': {'type': 'banana'}}},
            )
        assert caught.value.param == 'response_format'
