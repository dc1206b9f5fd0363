"""The official client of Anthropic against the Messages API: blocks in, blocks and their events out."""

from __future__ import annotations

import anthropic
import pytest

from swift.engines.fake import FakeEngine
from swift.serve import auth, messages
from swift.serve.ledger import Allowance
from swift.serve.moderation import Words
from swift.serve.schema_messages import MessagesRequest
from tests.serve.running import CANARY, running
from tests.serve.test_tools import SAID

TOOLS = [
    {'name': 'get_weather', 'description': 'Rain?', 'input_schema': {'type': 'object'}},
    {'name': 'stop', 'input_schema': {'type': 'object'}},
]
KEYS = [auth.key('sk-a', id='alice'), auth.key('sk-b', id='bob', allowance=Allowance(requests_per_minute=1))]


@pytest.fixture(scope='module')
def server():
    engine = FakeEngine(faults={'BREAK': ('error', 3), 'REFUSE': ('error', 1)}, max_model_len=1000)
    with running(engine=engine, keys=KEYS, rules=[Words(['badword'])]) as made:
        yield made


def connect(server, **how):
    how = how or {'api_key': 'sk-a'}
    return anthropic.Anthropic(base_url=f'http://127.0.0.1:{server.port}', max_retries=0, **how)


@pytest.fixture(scope='module')
def client(server):
    with connect(server) as made:
        yield made


def asked(text, **fields):
    return {'model': 'fake', 'max_tokens': 500, 'messages': [{'role': 'user', 'content': text}], **fields}


def test_a_message_is_answered(client):
    answer = client.messages.create(
        **asked(CANARY, system='Be brief.', metadata={'user_id': 'u'}, extra_body={'temperature': 0.5})
    )
    assert [block.type for block in answer.content] == ['text'] and answer.content[0].text == CANARY
    assert (answer.stop_reason, answer.role, answer.model, answer.stop_sequence) == (
        'end_turn',
        'assistant',
        'fake',
        None,
    )
    size = len(CANARY.encode())
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (size, size + 1)


def test_an_answer_comes_apart_into_thinking_text_and_tool_use(client):
    answer = client.messages.create(**asked(SAID, tools=TOOLS))
    thought, said, *calls = answer.content
    assert (thought.type, thought.thinking, said.text) == ('thinking', 'Which unit?', 'One moment.')
    assert [(call.name, call.input) for call in calls] == [('get_weather', {'unit': 'C'}), ('stop', {})]
    assert answer.stop_reason == 'tool_use'
    one = client.messages.create(
        **asked(SAID, tools=TOOLS, tool_choice={'type': 'auto', 'disable_parallel_tool_use': True})
    )
    assert [block.type for block in one.content] == ['thinking', 'text', 'tool_use']


def test_a_stream_gives_the_same_block_by_block(client):
    events = list(client.messages.create(**asked(SAID, tools=TOOLS), stream=True))
    kinds = [event.type for event in events if event.type != 'content_block_delta']
    block = ['content_block_start', 'content_block_stop']
    assert kinds == ['message_start', *block * 4, 'message_delta', 'message_stop']
    assert [event.index for event in events if event.type in block] == [0, 0, 1, 1, 2, 2, 3, 3]
    with client.messages.stream(**asked(SAID, tools=TOOLS)) as stream:
        streamed = stream.get_final_message()
    whole = client.messages.create(**asked(SAID, tools=TOOLS))
    plain = lambda message: [{**block.model_dump(exclude_none=True), 'id': ''} for block in message.content]
    assert plain(streamed) == plain(whole)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ('tool_use', whole.usage.output_tokens)


def test_events_have_names_and_a_ping(server):
    body = asked('Hi', stream=True)
    _, text, headers = server.post('/v1/messages', body, headers={'x-api-key': 'sk-a'})
    names = [line.removeprefix('event: ') for line in text.splitlines() if line.startswith('event')]
    assert names[:3] == ['message_start', 'ping', 'content_block_start'] and names[-1] == 'message_stop'
    assert headers['content-type'].startswith('text/event-stream') and '[DONE]' not in text


def test_results_of_tools_are_sent_back(client):
    first = client.messages.create(**asked(SAID, tools=TOOLS))
    called = [block for block in first.content if block.type == 'tool_use']
    results = [{'type': 'tool_result', 'tool_use_id': call.id, 'content': '21'} for call in called]
    talk = [{'role': 'user', 'content': SAID}, {'role': 'assistant', 'content': first.content}]
    second = client.messages.create(
        **{**asked('', tools=TOOLS), 'messages': [*talk, {'role': 'user', 'content': results}]}
    )
    assert second.content[0].text == '21'


def test_blocks_are_turns_of_chat():
    cached = {'cache_control': {'type': 'ephemeral'}}
    request = MessagesRequest.model_validate(
        {
            'max_tokens': 9,
            'system': [{'type': 'text', 'text': 'Be brief.', **cached}],
            'messages': [
                {'role': 'user', 'content': 'Hi'},
                {
                    'role': 'assistant',
                    'content': [
                        {'type': 'thinking', 'thinking': 'Hm', 'signature': 's'},
                        {'type': 'redacted_thinking', 'data': 'x'},
                        {'type': 'text', 'text': 'Wait.'},
                        {'type': 'tool_use', 'id': 'c1', 'name': 'f', 'input': {'x': 1}},
                    ],
                },
                {
                    'role': 'user',
                    'content': [
                        {'type': 'tool_result', 'tool_use_id': 'c1', 'content': [{'type': 'text', 'text': 'one'}]},
                        {'type': 'tool_result', 'tool_use_id': 'c2', 'is_error': True},
                        {'type': 'text', 'text': 'And'},
                        {'type': 'text', 'text': ' now?'},
                    ],
                },
            ],
            'tools': [{**TOOLS[0], 'type': 'custom', **cached}],
            'tool_choice': {'type': 'any'},
            'thinking': {'type': 'enabled', 'budget_tokens': 2000},
            'stop_sequences': ['END'],
            'top_k': 5,
            'output_config': {'effort': 'low', 'format': {'type': 'json_schema', 'schema': {'type': 'object'}}},
        }
    )
    made = messages.conversation(request).model_dump(by_alias=True, exclude_none=True)
    text = lambda *said: [{'type': 'text', 'text': each} for each in said]
    assert made['messages'] == [
        {'role': 'system', 'content': text('Be brief.')},
        {'role': 'user', 'content': 'Hi'},
        {
            'role': 'assistant',
            'content': text('Wait.'),
            'reasoning_content': 'Hm',
            'tool_calls': [{'id': 'c1', 'type': 'function', 'function': {'name': 'f', 'arguments': '{"x": 1}'}}],
        },
        {'role': 'tool', 'tool_call_id': 'c1', 'content': text('one')},
        {'role': 'tool', 'tool_call_id': 'c2', 'content': ''},
        {'role': 'user', 'content': text('And', ' now?')},
    ]
    function = {'name': 'get_weather', 'description': 'Rain?', 'parameters': {'type': 'object'}}
    assert made['tools'] == [{'type': 'function', 'function': function}]
    assert (made['tool_choice'], made['stop'], made['top_k']) == ('required', ['END'], 5)
    assert made['chat_template_kwargs']['enable_thinking'] is True
    assert (made['reasoning_effort'], made['response_format']['type']) == ('low', 'json_schema')


@pytest.mark.parametrize('stream', [False, True])
def test_why_an_answer_ended_is_said(client, stream):
    def ask(*args, **fields):
        if not stream:
            return client.messages.create(**asked(*args, **fields))
        with client.messages.stream(**asked(*args, **fields)) as made:
            return made.get_final_message()

    assert ask('abcdef', max_tokens=3).stop_reason == 'max_tokens'
    assert ask('x' * 600, max_tokens=900).stop_reason == 'model_context_window_exceeded'
    stopped = ask('one two three', stop_sequences=['three', ' two'])
    assert (stopped.stop_reason, stopped.stop_sequence) == ('stop_sequence', ' two')
    assert stopped.content[0].text == 'one'


def test_arguments_that_are_no_object_are_passed_on(client):
    said = '<tool_call>\n{"name": "stop", "arguments": {"x": 1'
    answer = client.messages.create(**asked(said, tools=TOOLS))
    assert answer.content[0].input == {'INVALID_JSON': '{"x": 1'}


def test_tokens_are_counted_without_an_answer(client, server):
    before = server.engine.stats()['accepted']
    assert (
        client.messages.count_tokens(model='fake', messages=[{'role': 'user', 'content': 'x' * 5000}]).input_tokens
        == 5000
    )
    assert server.engine.stats()['accepted'] == before


def test_the_key_may_be_in_either_header(server):
    for how in ({'api_key': 'sk-a'}, {'auth_token': 'sk-a'}):
        with connect(server, **how) as client:
            assert client.messages.create(**asked('Hi')).content[0].text == 'Hi'
    with connect(server, api_key='wrong') as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(**asked('Hi'))
    assert caught.value.body['error']['type'] == 'authentication_error'


def test_limits_are_anthropics_errors(server):
    with connect(server, api_key='sk-b') as client:
        client.messages.create(**asked('Hi'))
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**asked('Hi'))
    assert caught.value.body == {
        'type': 'error',
        'error': {'type': 'rate_limit_error', 'message': caught.value.body['error']['message']},
    }
    assert int(caught.value.response.headers['retry-after']) >= 1


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'max_tokens': 0}, 'max_tokens'),
        ({'messages': []}, 'messages'),
        ({'messages': [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]}, 'not continued here'),
        ({'tools': [{'type': 'web_search_20250305', 'name': 'web_search'}]}, 'its type must be custom'),
        ({'tool_choice': {'type': 'any'}}, 'tool_choice needs tools'),
        ({'extra_body': {'temprature': 1}}, 'temprature'),
        ({'messages': [{'role': 'user', 'content': 'a badword'}]}, 'not allowed'),
        ({'messages': [{'role': 'user', 'content': 'x' * 2000}]}, '2000 tokens'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
@pytest.mark.parametrize('stream', [False, True])
def test_what_is_wrong_is_said_before_the_first_byte(client, fields, words, stream):
    with pytest.raises(anthropic.BadRequestError, match=words) as caught:
        client.messages.create(**{**asked('Hi'), 'stream': stream, **fields})
    assert caught.value.body['error']['type'] == 'invalid_request_error'


def test_a_model_that_is_not_served_and_an_engine_that_fails(client):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**asked('Hi', model='fak'))
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**asked('REFUSE'))
    assert (caught.value.status_code, caught.value.body['error']['type']) == (503, 'overloaded_error')
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(client.messages.create(**asked('BREAK it'), stream=True))
    assert caught.value.body['error']['type'] == 'overloaded_error'
