"""The official client of OpenAI against the server: what it sends is taken, what it reads is there."""

from __future__ import annotations

import openai
import pytest

from tests.serve.running import CANARY, running


@pytest.fixture(scope='module')
def server():
    with running() as made:
        yield made
        made.is_well()


@pytest.fixture(scope='module')
def client(server):
    with openai.OpenAI(base_url=server.url, api_key='EMPTY', max_retries=0) as made:
        yield made


def user(text):
    return [{'role': 'user', 'content': text}]


def test_a_chat_answers(client):
    answer = client.chat.completions.create(model='fake', messages=user(CANARY))
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ('assistant', CANARY, 'stop')
    assert answer.usage.prompt_tokens == len(CANARY.encode())
    assert answer.usage.completion_tokens == len(CANARY.encode()) + 1
    assert answer.object == 'chat.completion'


def test_a_stream_joins_to_the_whole_answer_and_counts_at_its_end(client):
    options = {'include_usage': True}
    chunks = list(
        client.chat.completions.create(model='fake', messages=user(CANARY), stream=True, stream_options=options)
    )
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks if chunk.choices) == CANARY
    assert chunks[0].choices[0].delta.role == 'assistant'
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == 'stop'
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(CANARY.encode()) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices_with_log_probabilities(client):
    answer = client.chat.completions.create(
        model='fake', messages=user('abc'), n=3, logprobs=True, top_logprobs=2, max_completion_tokens=2
    )
    assert [choice.message.content for choice in answer.choices] == ['ab'] * 3
    assert [choice.finish_reason for choice in answer.choices] == ['length'] * 3
    tokens = answer.choices[0].logprobs.content
    assert [each.token for each in tokens] == ['a', 'b']
    assert len(tokens[0].top_logprobs) == 2
    stream = client.chat.completions.create(
        model='fake', messages=user('abc'), n=2, logprobs=True, max_tokens=2, stream=True
    )
    said = {0: '', 1: ''}
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += ''.join(each.token for each in (choice.logprobs.content if choice.logprobs else ()))
    assert said == {0: 'ab', 1: 'ab'}


def test_everything_that_clients_send_by_habit_is_taken(client):
    answer = client.chat.completions.create(
        model='fake',
        messages=[
            {'role': 'developer', 'content': 'Be brief.'},
            {'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}], 'name': 'bob'},
            {'role': 'assistant', 'content': 'Hello', 'refusal': None, 'annotations': [], 'audio': None},
            {'role': 'user', 'content': 'Bye'},
        ],
        user='somebody',
        metadata={'run': '7'},
        store=False,
        service_tier='auto',
        parallel_tool_calls=True,
        seed=-3,
        stop=['xyz'],
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        response_format={'type': 'text'},
        tools=[{'type': 'function', 'function': {'name': 'f', 'parameters': {'type': 'object'}}}],
        tool_choice='auto',
        reasoning_effort='low',
        extra_body={
            'top_k': 5,
            'min_p': 0.1,
            'repetition_penalty': 1.1,
            'min_tokens': 0,
            'ignore_eos': False,
            'skip_special_tokens': True,
            'chat_template_kwargs': {'enable_thinking': False},
        },
    )
    assert answer.choices[0].message.content == 'Bye'


def test_completions_continue_texts_and_tokens(client):
    answer = client.completions.create(model='fake', prompt=['one', 'two'], n=2, logprobs=1, max_tokens=3)
    assert [choice.text for choice in answer.choices] == ['one', 'one', 'two', 'two']
    assert answer.choices[0].logprobs.tokens == ['o', 'n', 'e']
    assert answer.choices[0].logprobs.text_offset == [0, 1, 2]
    assert client.completions.create(model='fake', prompt=[104, 105]).choices[0].text == 'hi'
    assert [c.text for c in client.completions.create(model='fake', prompt=[[104], [105]]).choices] == ['h', 'i']
    assert len(client.completions.create(model='fake', prompt='x' * 50).choices[0].text) == 16
    chunks = client.completions.create(
        model='fake', prompt='stream', stream=True, stream_options={'include_usage': True}
    )
    chunks = list(chunks)
    assert ''.join(chunk.choices[0].text for chunk in chunks if chunk.choices) == 'stream'
    assert chunks[-1].usage.prompt_tokens == 6


def test_what_a_benchmark_sends_runs_past_the_end(client):
    body = {'ignore_eos': True, 'repetition_penalty': 1.0}
    answer = client.completions.create(model='fake', prompt='abc', max_tokens=7, temperature=0.0, extra_body=body)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (7, 'length')


def test_a_prompt_is_said_again_with_how_likely_it_was(client):
    asked = {
        'model': 'fake',
        'prompt': ['abc', 'hi'],
        'max_tokens': 1,
        'temperature': 0,
        'logprobs': 1,
        'echo': True,
    }
    answer = client.completions.create(**asked)
    assert [choice.text for choice in answer.choices] == ['abca', 'hih']
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ['a', 'b', 'c', 'a']
    assert logprobs.token_logprobs == [None, -0.5, -0.5, -0.5]
    assert logprobs.top_logprobs[0] is None and logprobs.top_logprobs[1] == {'b': -0.5}
    assert logprobs.text_offset == [0, 1, 2, 3]
    chunks = client.completions.create(**{**asked, 'prompt': 'abc', 'n': 2}, stream=True)
    said = {0: '', 1: ''}
    for chunk in chunks:
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == {0: 'abca', 1: 'abca'}


def test_log_probabilities_of_a_prompt_have_vllms_form(client):
    answer = client.completions.create(model='fake', prompt='abc', max_tokens=1, extra_body={'prompt_logprobs': 1})
    first, second, third = answer.choices[0].prompt_logprobs
    assert first is None
    assert second == {'98': {'logprob': -0.5, 'rank': 1, 'decoded_token': 'b'}}
    assert list(third) == ['99']


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ['fake']
    assert client.models.retrieve('fake').owned_by == 'swift'
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve('nobody')


@pytest.mark.parametrize(
    ('fields', 'param'),
    [
        ({'temperature': -1}, 'temperature'),
        ({'temperature': 2.1}, 'temperature'),
        ({'top_p': 0}, 'top_p'),
        ({'n': 0}, 'n'),
        ({'n': 17}, 'n'),
        ({'max_tokens': 0}, 'max_tokens'),
        ({'max_completion_tokens': -1}, 'max_completion_tokens'),
        ({'stop': ['x'] * 17}, 'stop'),
        ({'stop': 'x' * 257}, 'stop'),
        ({'top_logprobs': 3}, 'top_logprobs'),
        ({'logprobs': True, 'top_logprobs': 21}, 'top_logprobs'),
        ({'logit_bias': {'5': 101}}, 'logit_bias.5'),
        ({'logit_bias': {'-5': 1}}, 'logit_bias.-5'),
        ({'tool_choice': 'required'}, 'tool_choice'),
        ({'extra_body': {'top_k': -2}}, 'top_k'),
        ({'extra_body': {'min_tokens': -3}}, 'min_tokens'),
        ({'extra_body': {'length_penalty': 2}}, 'length_penalty'),
        ({'extra_body': {'temprature': 1}}, 'temprature'),
        ({'extra_body': {'chat_template_kwargs': {'messages': []}}}, 'chat_template_kwargs'),
        ({'response_format': {'type': 'json_schema'}}, 'response_format.json_schema'),
        ({'messages': []}, 'messages'),
        ({'messages': [{'role': 'user', 'content': 'x' * 5000}]}, 'messages'),
        (
            {'messages': [{'role': 'user', 'content': [{'type': 'image_url', 'image_url': {'url': 'data:,'}}]}]},
            'messages',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
@pytest.mark.parametrize('stream', [False, True])
def test_what_is_wrong_is_named_before_the_first_byte_with_and_without_stream(client, fields, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{'model': 'fake', 'messages': user('Hi'), 'stream': stream, **fields})
    assert caught.value.param == param
    assert caught.value.type == 'invalid_request_error'
    assert caught.value.message


def test_a_model_that_is_not_served_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model='fak', messages=user('Hi'))
    assert (caught.value.code, caught.value.param) == ('model_not_found', 'model')
    assert 'did you mean fake' in str(caught.value)
