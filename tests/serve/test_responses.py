"""The official client of OpenAI against the Responses API: items in, items and their events out, nothing kept."""

from __future__ import annotations

import json

import openai
import pytest
from pydantic import BaseModel

from swift.engines.fake import FakeEngine
from swift.serve import responses
from swift.serve.moderation import Words
from swift.serve.schema_responses import ResponsesRequest
from tests.serve.running import CANARY, running
from tests.serve.test_tools import SAID

TOOLS = [
    {'type': 'function', 'name': 'get_weather', 'parameters': {'type': 'object'}, 'strict': False},
    {'type': 'function', 'name': 'stop', 'description': 'End it.', 'parameters': None, 'strict': None},
]


@pytest.fixture(scope='module')
def server():
    engine = FakeEngine(faults={'BREAK': ('error', 3), 'REFUSE': ('error', 1)})
    with running(engine=engine, rules=[Words(['badword'])]) as made:
        yield made
        made.is_well()


@pytest.fixture(scope='module')
def client(server):
    with openai.OpenAI(base_url=server.url, api_key='EMPTY', max_retries=0) as made:
        yield made


def test_a_text_is_answered(client):
    answer = client.responses.create(model='fake', input=CANARY, store=False, metadata={'run': '7'})
    assert (answer.output_text, answer.status, answer.object) == (CANARY, 'completed', 'response')
    assert (answer.store, answer.metadata, answer.incomplete_details, answer.error) == (False, {'run': '7'}, None, None)
    size = len(CANARY.encode())
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (
        size,
        size + 1,
        2 * size + 1,
    )


def test_an_answer_comes_apart_into_reasoning_message_and_calls(client):
    answer = client.responses.create(model='fake', input=SAID, tools=TOOLS)
    thought, said, *calls = answer.output
    assert (thought.type, thought.content[0].text) == ('reasoning', 'Which unit?')
    assert (said.type, said.content[0].text, said.status) == ('message', 'One moment.', 'completed')
    assert [(call.name, call.arguments) for call in calls] == [('get_weather', '{"unit": "C"}'), ('stop', '{}')]
    assert len({item.id for item in answer.output}) == 4 and len({call.call_id for call in calls}) == 2
    details = answer.usage.output_tokens_details.reasoning_tokens
    assert len('<think>Which unit?') <= details <= SAID.index('One')


def test_the_events_of_a_stream_are_numbered_and_add_up_to_the_response(client):
    events = list(client.responses.create(model='fake', input=SAID, tools=TOOLS, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix('response.') for event in events]
    assert [kind for kind in kinds if not kind.endswith('delta')] == [
        'created', 'in_progress',
        'output_item.added', 'content_part.added', 'reasoning_text.done', 'content_part.done', 'output_item.done',
        'output_item.added', 'content_part.added', 'output_text.done', 'content_part.done', 'output_item.done',
        'output_item.added', 'function_call_arguments.done', 'output_item.done',
        'output_item.added', 'function_call_arguments.done', 'output_item.done',
        'completed',
    ]  # fmt: skip
    whole = events[-1].response
    added = [event.item for event in events if event.type == 'response.output_item.added']
    done = [event.item for event in events if event.type == 'response.output_item.done']
    assert done == whole.output and [item.id for item in added] == [item.id for item in done]
    assert all(item.status == 'in_progress' for item in added)
    for item in whole.output:
        deltas = ''.join(event.delta for event in events if event.type.endswith('delta') and event.item_id == item.id)
        assert deltas == (item.arguments if item.type == 'function_call' else item.content[0].text)
    plain = client.responses.create(model='fake', input=SAID, tools=TOOLS)
    assert plain.usage == whole.usage


def test_the_clients_own_stream_parses_calls_and_forms(client):
    class Point(BaseModel):
        x: int

    with client.responses.stream(model='fake', input='{"x": 7}', text_format=Point) as stream:
        list(stream)
        assert stream.get_final_response().output_parsed == Point(x=7)


def test_what_an_answer_gave_can_be_sent_back(client):
    first = client.responses.create(model='fake', input=SAID, tools=TOOLS)
    called = [item for item in first.output if item.type == 'function_call']
    results = [{'type': 'function_call_output', 'call_id': call.call_id, 'output': '21'} for call in called]
    second = client.responses.create(model='fake', input=[{'role': 'user', 'content': SAID}, *first.output, *results])
    assert second.output_text == '21'


def test_items_are_turns_of_chat():
    asked = ResponsesRequest.model_validate(
        {
            'instructions': 'Be brief.',
            'input': [
                {'role': 'user', 'content': [{'type': 'input_text', 'text': 'Hi'}]},
                {
                    'type': 'reasoning',
                    'id': 'rs_1',
                    'summary': [],
                    'content': [{'type': 'reasoning_text', 'text': 'Hm'}],
                },
                {'type': 'message', 'role': 'assistant', 'content': [{'type': 'output_text', 'text': 'Wait.'}]},
                {'type': 'function_call', 'call_id': 'c1', 'name': 'f', 'arguments': '{}'},
                {'type': 'function_call', 'call_id': 'c2', 'name': 'f', 'arguments': '{"x": 1}'},
                {'type': 'function_call_output', 'call_id': 'c1', 'output': 'one'},
                {'type': 'function_call_output', 'call_id': 'c2', 'output': [{'type': 'input_text', 'text': 'two'}]},
                {'type': 'message', 'role': 'assistant', 'content': 'Done.'},
                {'type': 'message', 'role': 'assistant', 'content': 'Really.'},
                {'role': 'developer', 'content': 'Go on.'},
            ],
            'tools': TOOLS,
            'tool_choice': {'type': 'function', 'name': 'stop'},
            'max_output_tokens': 9,
            'reasoning': {'effort': 'none', 'summary': 'auto'},
            'text': {'format': {'type': 'json_schema', 'name': 'a', 'schema': {'type': 'object'}, 'strict': True}},
        }
    )
    made = responses.conversation(asked).model_dump(by_alias=True, exclude_none=True)
    call = lambda id, arguments: {'id': id, 'type': 'function', 'function': {'name': 'f', 'arguments': arguments}}
    assert made['messages'] == [
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]},
        {
            'role': 'assistant',
            'reasoning_content': 'Hm',
            'content': [{'type': 'text', 'text': 'Wait.'}],
            'tool_calls': [call('c1', '{}'), call('c2', '{"x": 1}')],
        },
        {'role': 'tool', 'tool_call_id': 'c1', 'content': 'one'},
        {'role': 'tool', 'tool_call_id': 'c2', 'content': [{'type': 'text', 'text': 'two'}]},
        {'role': 'assistant', 'content': 'Done.'},
        {'role': 'assistant', 'content': 'Really.'},
        {'role': 'developer', 'content': 'Go on.'},
    ]
    assert made['tools'][1] == {'type': 'function', 'function': {'name': 'stop', 'description': 'End it.'}}
    assert made['tool_choice'] == {'type': 'function', 'function': {'name': 'stop'}}
    assert made['response_format']['json_schema'] == {'name': 'a', 'schema': {'type': 'object'}, 'strict': True}
    assert (made['max_completion_tokens'], made['reasoning_effort']) == (9, 'none')
    assert made['chat_template_kwargs']['enable_thinking'] is False


@pytest.mark.parametrize('stream', [False, True])
def test_an_answer_that_is_cut_off_says_why(client, stream):
    def ask(**asked):
        made = client.responses.create(model='fake', stream=stream, **asked)
        return list(made)[-1].response if stream else made

    short = ask(input='abcdef', max_output_tokens=3)
    assert (short.status, short.incomplete_details.reason) == ('incomplete', 'max_output_tokens')
    assert (short.output[0].status, short.output_text) == ('incomplete', 'abc')


def test_a_word_that_is_not_allowed_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model='fake', input='a badword')
    assert (caught.value.code, caught.value.param) == ('content_filter', 'input')


def test_an_engine_that_fails_is_an_error_before_the_first_event_and_a_failed_response_after_it(client):
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model='fake', input='REFUSE', stream=stream)
        assert caught.value.status_code == 503
    *_, last = client.responses.create(model='fake', input='BREAK it', stream=True)
    assert (last.type, last.response.status, last.response.error.code) == ('response.failed', 'failed', 'server_error')
    assert last.response.output[0].status == 'incomplete'


@pytest.mark.parametrize(
    ('fields', 'param'),
    [
        ({'store': True}, 'store'),
        ({'previous_response_id': 'resp_1'}, 'previous_response_id'),
        ({'conversation': 'conv_1'}, 'conversation'),
        ({'background': True}, 'background'),
        ({'tools': [{'type': 'web_search'}]}, 'tools[0]'),
        ({'tool_choice': 'required'}, 'tool_choice'),
        ({'input': [{'type': 'item_reference', 'id': 'msg_1'}]}, 'input[0]'),
        ({'input': [{'role': 'user', 'content': [{'type': 'input_image', 'image_url': 'data:,'}]}]}, 'input'),
        ({'input': 'x' * 5000}, 'input'),
        ({'max_output_tokens': 0}, 'max_output_tokens'),
        ({'temperature': 3}, 'temperature'),
        ({'truncation': 'auto'}, 'truncation'),
        ({'extra_body': {'temprature': 1}}, 'temprature'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
@pytest.mark.parametrize('stream', [False, True])
def test_what_is_wrong_is_named_before_the_first_byte(client, fields, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{'model': 'fake', 'input': 'Hi', 'stream': stream, **fields})
    assert caught.value.param == param
    assert json.dumps(caught.value.body)
