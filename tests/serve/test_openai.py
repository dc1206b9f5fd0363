"""The official client of OpenAI against the server: what it sends is taken, what it reads is there, whoever answers."""

from __future__ import annotations

import re

import openai
import pytest

from tests.serve.running import CANARY


@pytest.fixture
def client(asking):
    return asking


def user(text):
    return [{'role': 'user', 'content': text}]


def tools(parameters):
    """The field of one tool with such arguments."""
    return {'tools': [{'type': 'function', 'function': {'name': 'f', 'parameters': parameters}}]}


def greedy(text, count=8, **more):
    """A question of the chat API."""
    return {'model': 'fake', 'messages': user(text), 'max_tokens': count, 'temperature': 0, **more}


def plain(prompt, count, **more):
    """One of the completions API."""
    return {'model': 'fake', 'prompt': prompt, 'max_tokens': count, 'temperature': 0, **more}


def test_a_chat_answers(client, oracle):
    answer = client.chat.completions.create(**greedy(CANARY))
    choice = answer.choices[0]
    said = oracle.text(oracle.after(oracle.prompt(CANARY), 8))
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ('assistant', said, 'length')
    assert answer.usage.prompt_tokens == len(oracle.prompt(CANARY))
    assert (answer.usage.completion_tokens, answer.object) == (8, 'chat.completion')


def test_an_answer_ends_before_a_stop_word(client, oracle):
    whole = oracle.text(oracle.after(oracle.prompt(CANARY), 12))
    word = re.search('[a-zA-Z ]{2}', whole[1:])[0]
    choice = client.chat.completions.create(**greedy(CANARY, 12), stop=['never said', word]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (whole[: whole.index(word)], 'stop')


def test_a_stream_joins_to_the_whole_answer_and_counts_at_its_end(client, oracle):
    chunks = list(client.chat.completions.create(**greedy(CANARY), stream=True, stream_options={'include_usage': True}))
    said = oracle.text(oracle.after(oracle.prompt(CANARY), 8))
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks if chunk.choices) == said
    assert chunks[0].choices[0].delta.role == 'assistant'
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == 'length'
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices_with_log_probabilities(client, oracle):
    first, second = ids = oracle.after(oracle.prompt('abc'), 2)
    asked = greedy('abc', 2, n=3, logprobs=True)
    answer = client.chat.completions.create(**asked, top_logprobs=2)
    assert [choice.message.content for choice in answer.choices] == [oracle.text(ids)] * 3
    assert [choice.finish_reason for choice in answer.choices] == ['length'] * 3
    tokens = answer.choices[0].logprobs.content
    assert [each.token for each in tokens] == [oracle.text([first]), oracle.text([second])]
    likely = oracle.logprobs([*oracle.prompt('abc'), first, second])[-2:]
    assert [each.logprob for each in tokens] == pytest.approx(likely, abs=1e-4)
    assert [len(each.top_logprobs) for each in tokens] == [2, 2]
    said = {0: [], 1: [], 2: []}
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            said[choice.index] += [each.token for each in (choice.logprobs.content if choice.logprobs else ())]
    assert list(said.values()) == [[each.token for each in tokens]] * 3


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
        max_tokens=4,
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
    assert answer.choices[0].finish_reason in ('stop', 'length')


def test_completions_continue_texts_and_tokens(client, oracle):
    said = {text: oracle.text(oracle.after(oracle.ids(text), 3)) for text in ('one', 'two')}
    answer = client.completions.create(**plain(['one', 'two'], 3, n=2, logprobs=1))
    assert [choice.text for choice in answer.choices] == [said['one']] * 2 + [said['two']] * 2
    tokens = answer.choices[0].logprobs.tokens
    assert tokens == [oracle.text([id]) for id in oracle.after(oracle.ids('one'), 3)]
    assert answer.choices[0].logprobs.text_offset == [0, len(tokens[0]), len(tokens[0] + tokens[1])]
    one, two = oracle.ids('one'), oracle.ids('two')
    assert client.completions.create(**plain(one, 3)).choices[0].text == said['one']
    assert [c.text for c in client.completions.create(**plain([one, two], 3)).choices] == list(said.values())
    usual = client.completions.create(model='fake', prompt='x' * 50, temperature=0)
    assert usual.choices[0].text == oracle.text(oracle.after(oracle.ids('x' * 50), 16))
    chunks = list(client.completions.create(**plain('one', 3), stream=True, stream_options={'include_usage': True}))
    assert ''.join(chunk.choices[0].text for chunk in chunks if chunk.choices) == said['one']
    assert chunks[-1].usage.prompt_tokens == len(one)


def test_what_a_benchmark_sends_runs_past_the_end(client):
    body = {'ignore_eos': True, 'repetition_penalty': 1.0}
    answer = client.completions.create(model='fake', prompt='abc', max_tokens=7, temperature=0.0, extra_body=body)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (7, 'length')


def test_a_prompt_is_said_again_with_how_likely_it_was(client, oracle):
    ids, others = oracle.ids('abc'), oracle.ids('hi')
    answer = client.completions.create(**plain(['abc', 'hi'], 1, logprobs=1, echo=True))
    whole = [*ids, *oracle.after(ids, 1)]
    assert [choice.text for choice in answer.choices] == [
        'abc' + oracle.text(oracle.after(ids, 1)), 'hi' + oracle.text(oracle.after(others, 1)),
    ]  # fmt: skip
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == [oracle.text([id]) for id in whole]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx(oracle.logprobs(whole), abs=1e-4)
    assert logprobs.top_logprobs[0] is None and len(logprobs.top_logprobs[1]) >= 1
    assert logprobs.text_offset == [len(oracle.text(whole[:i])) for i in range(len(whole))]
    said = {0: '', 1: ''}
    for chunk in client.completions.create(**plain('abc', 1, logprobs=1, echo=True, n=2), stream=True):
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == dict.fromkeys((0, 1), answer.choices[0].text)


def test_log_probabilities_of_a_prompt_have_vllms_form(client, oracle):
    ids = oracle.ids('abc')
    answer = client.completions.create(**plain('abc', 1), extra_body={'prompt_logprobs': 1})
    first, second, *_ = rows = answer.choices[0].prompt_logprobs
    assert first is None and len(rows) == len(ids)
    about = second[str(ids[1])]
    assert about['logprob'] == pytest.approx(oracle.logprobs(ids)[0], abs=1e-4)
    assert (about['decoded_token'], set(about)) == (oracle.text(ids[1:2]), {'logprob', 'rank', 'decoded_token'})


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
        (tools({'properties': [None]}), 'tools[0].function.parameters'),
        (tools({'properties': {'x': 0.5}}), 'tools[0].function.parameters'),
        (tools({'properties': {'x': {'anyOf': {}}}}), 'tools[0].function.parameters'),
        (tools({'required': True}), 'tools[0].function.parameters'),
        (tools({'items': {'type': [7]}}), 'tools[0].function.parameters'),
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
