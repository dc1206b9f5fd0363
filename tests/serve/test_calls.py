"""Tool calls and reasoning through the server, whole and streamed: the fake engine says what a model would say."""

from __future__ import annotations

import json

import openai
import pytest

from swift.engines.fake import FakeEngine
from tests.serve.running import running

TOOLS = [
    {'type': 'function', 'function': {'name': 'weather', 'parameters': {'properties': {'city': {'type': 'string'}}}}},
    {'type': 'function', 'function': {'name': 'time', 'parameters': {'properties': {}}}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope='module')
def client():
    with running() as server, openai.OpenAI(base_url=server.url, api_key='EMPTY', max_retries=0) as made:
        yield made
        server.is_well()


def ask(client, text, **fields):
    """The message and its finish reason, whole and joined from a stream; they must agree."""
    asked = {'model': 'fake', 'messages': [{'role': 'user', 'content': text}], **fields}
    whole = client.chat.completions.create(**asked).choices[0]
    content, reasoning, calls, finish = '', '', {}, None
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ''
        reasoning += getattr(choice.delta, 'reasoning_content', None) or ''
        for each in choice.delta.tool_calls or ():
            call = calls.setdefault(each.index, {'id': each.id, 'name': each.function.name, 'arguments': ''})
            call['arguments'] += each.function.arguments or ''
        finish = choice.finish_reason or finish
    assert (content, finish) == (whole.message.content or '', whole.finish_reason)
    assert reasoning == (getattr(whole.message, 'reasoning_content', None) or '')
    joined = [(call['name'], json.loads(call['arguments'])) for _, call in sorted(calls.items())]
    found = [(call.function.name, json.loads(call.function.arguments)) for call in whole.message.tool_calls or ()]
    assert joined == found
    assert all(call['id'] for call in calls.values())
    return whole.message, found, whole.finish_reason


def test_a_call_is_no_content(client):
    message, calls, finish = ask(client, CALL, tools=TOOLS)
    assert (message.content, calls, finish) == (None, [('weather', {'city': 'Paris'})], 'tool_calls')


def test_content_goes_before_calls_and_there_may_be_several(client):
    message, calls, finish = ask(client, f'Let me see.\n{CALL}\n{SECOND}', tools=TOOLS)
    assert message.content.strip() == 'Let me see.'
    assert calls == [('weather', {'city': 'Paris'}), ('time', {})]
    assert finish == 'tool_calls'


def test_one_call_is_kept_where_one_is_asked_for(client):
    assert ask(client, f'{CALL}\n{SECOND}', tools=TOOLS, parallel_tool_calls=False)[1] == [
        ('weather', {'city': 'Paris'})
    ]


@pytest.mark.parametrize('fields', [{}, {'tools': TOOLS, 'tool_choice': 'none'}], ids=['no tools', 'none'])
def test_without_tools_nothing_is_taken_for_a_call(client, fields):
    message, calls, finish = ask(client, CALL, **fields)
    assert (message.content, calls, finish) == (CALL, [], 'stop')


def test_reasoning_is_told_apart(client):
    message, _, _ = ask(client, '<think>Hm, 你好.</think>Hello')
    assert (message.reasoning_content.strip(), message.content.strip()) == ('Hm, 你好.', 'Hello')


def test_a_call_that_was_cut_off_ends_with_length(client):
    assert ask(client, CALL, tools=TOOLS, max_tokens=30)[2] == 'length'


def test_a_call_that_must_be_made_is_a_grammar_of_the_request(client, monkeypatch):
    asked = []
    begin = FakeEngine.begin
    monkeypatch.setattr(
        FakeEngine, 'begin', lambda self, request, deliver: (asked.append(request), begin(self, request, deliver))
    )
    for choice in ('required', {'type': 'function', 'function': {'name': 'weather'}}):
        assert ask(client, CALL, tools=TOOLS, tool_choice=choice)[1] == [('weather', {'city': 'Paris'})]
    ask(client, CALL, tools=TOOLS)
    assert [request.sampling.grammar and request.sampling.grammar.kind for request in asked] == ['lark'] * 4 + [
        None
    ] * 2
    for fields in (
        {'tool_choice': {'type': 'function', 'function': {'name': 'nobody'}}},
        {'tool_choice': 'required', 'response_format': {'type': 'json_object'}},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, CALL, tools=TOOLS, **fields)
        assert caught.value.param == 'tool_choice'


def test_results_of_calls_go_back_into_the_conversation(client):
    message, _, _ = ask(client, CALL, tools=TOOLS)
    history = [
        {'role': 'user', 'content': 'Weather?'},
        message.model_dump(exclude_none=True),
        {'role': 'tool', 'tool_call_id': message.tool_calls[0].id, 'content': '21 degrees'},
    ]
    answer = client.chat.completions.create(model='fake', messages=history, tools=TOOLS)
    assert answer.choices[0].message.content == '21 degrees'
