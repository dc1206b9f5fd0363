"""TransformersEngine: conversations in, chat completions out, from folders, builders and models in memory."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from swift import AdapterRequest, InferRequest, RequestConfig, TransformersEngine, models
from swift.core.errors import ConfigError, ModelError, RequestError, RowError, SwiftError
from swift.models.args import ModelArgs
from tests import tiny
from tests.adapters import adapter
from tests.engines.plain import PlainTemplate, reference

QUESTIONS = ['Who are you?', 'What is the capital of France?', '你是谁？', 'The quick brown fox']


def asked(text: str) -> InferRequest:
    return InferRequest(messages=[{'role': 'user', 'content': text}])


def expected(model, text: str, count: int = 8) -> str:
    tokenizer = tiny.tokenizer()
    prompt = tokenizer.apply_chat_template([{'role': 'user', 'content': text}], add_generation_prompt=True)['input_ids']
    return tokenizer.decode(reference(model, prompt, count), skip_special_tokens=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp('model') / 'tiny')


@pytest.fixture
def engine(folder):
    made = TransformersEngine(str(folder))
    yield made
    made.close()


EIGHT = RequestConfig(max_tokens=8, temperature=0)


def test_answers_come_in_the_order_of_the_requests(engine):
    responses = engine.infer([asked(text) for text in QUESTIONS], EIGHT)
    assert [each.choices[0].message.content for each in responses] == [expected(tiny.model(), q) for q in QUESTIONS]
    first = responses[0]
    assert (first.model, first.object, first.choices[0].message.role) == ('tiny', 'chat.completion', 'assistant')
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert first.usage.completion_tokens == 8
    assert len({each.id for each in responses}) == 4


def test_a_model_in_memory_and_a_builder_answer_the_same(engine, folder):
    wanted = engine.infer([asked('Hi')], EIGHT)[0].choices
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    for model in (loaded, models.load(ModelArgs(model=str(folder)))):
        other = TransformersEngine(model)
        assert other.infer([asked('Hi')], EIGHT)[0].choices == wanted
        other.close()


def test_a_model_without_a_folder_needs_a_template_and_works_with_one():
    with pytest.raises(ConfigError, match='template'):
        TransformersEngine(tiny.model())
    engine = TransformersEngine(tiny.model(), template=PlainTemplate())
    assert engine.infer([asked('Hi')], EIGHT)[0].choices[0].message.content == expected(tiny.model(), 'Hi')
    engine.close()


def test_streams_join_to_the_whole_answer(engine):
    whole = engine.infer([asked(text) for text in QUESTIONS], EIGHT)
    streams = engine.infer([asked(text) for text in QUESTIONS], RequestConfig(max_tokens=8, temperature=0, stream=True))
    for stream, response in zip(streams, whole, strict=True):
        chunks = list(stream)
        assert ''.join(chunk.choices[0].delta.content for chunk in chunks) == response.choices[0].message.content
        assert [chunk.choices[0].delta.role for chunk in chunks] == ['assistant', *[None] * (len(chunks) - 1)]
        assert chunks[-1].choices[0].finish_reason == response.choices[0].finish_reason
        assert chunks[-1].usage == response.usage
        assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_infer_async_answers_and_streams(engine):
    async def both():
        whole = await engine.infer_async(asked('Hi'), EIGHT)
        stream = await engine.infer_async(asked('Hi'), RequestConfig(max_tokens=8, temperature=0, stream=True))
        return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(both())
    assert ''.join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content


def test_logprobs_and_details_are_in_the_apis_form(engine):
    config = RequestConfig(max_tokens=4, temperature=0, logprobs=True, top_logprobs=3, return_details=True)
    response = engine.infer([asked('Hi')], config)[0]
    choice = response.choices[0]
    content = choice.logprobs['content']
    assert len(content) == len(choice.token_ids) == 4
    assert ''.join(each['token'] for each in content) == choice.message.content
    assert bytes(content[0]['bytes']).decode() == content[0]['token']
    assert [len(each['top_logprobs']) for each in content] == [3] * 4
    assert content[0]['top_logprobs'][0]['logprob'] == pytest.approx(content[0]['logprob'])
    assert len(response.prompt_token_ids) == response.usage.prompt_tokens


def test_n_answers_are_n_choices(engine):
    response = engine.infer([asked('Hi')], RequestConfig(max_tokens=6, temperature=1, seed=3, n=4))[0]
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in response.choices}) > 1
    assert response.usage.completion_tokens == 24


def test_stop_words_end_answers_as_text_and_as_control_tokens(engine):
    free = engine.infer([asked(QUESTIONS[1])], RequestConfig(max_tokens=12, temperature=0, return_details=True))[0]
    text = free.choices[0].message.content
    cut = engine.infer([asked(QUESTIONS[1])], RequestConfig(max_tokens=12, temperature=0, stop=[text[4:6]]))[0]
    assert cut.choices[0].message.content == text[: text.index(text[4:6])]
    assert cut.choices[0].finish_reason == 'stop'
    request = engine.request(asked('Hi'), RequestConfig(stop=['<|endoftext|>', 'word']))
    assert (request.sampling.stop, request.sampling.stop_ids) == (('word',), (0, 2))


def test_what_is_not_given_comes_from_the_models_generation_config(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.update(do_sample=True, temperature=0.5, top_k=7, top_p=0.9, repetition_penalty=1.2)
    engine = TransformersEngine(model)
    drawn = engine.request(asked('Hi'), RequestConfig()).sampling
    given = engine.request(asked('Hi'), RequestConfig(temperature=0, top_k=3, max_tokens=5)).sampling
    engine.close()
    assert (drawn.temperature, drawn.top_k, drawn.top_p, drawn.repetition_penalty) == (0.5, 7, 0.9, 1.2)
    assert (given.temperature, given.top_k, given.max_tokens) == (0, 3, 5)
    plain = TransformersEngine(AutoModelForCausalLM.from_pretrained(folder))
    assert plain.request(asked('Hi'), RequestConfig()).sampling.temperature == 0
    assert plain.request(asked('Hi'), RequestConfig(temperature=0.8)).sampling.top_k == 0
    plain.close()


@pytest.mark.parametrize(
    'config',
    [
        RequestConfig(num_beams=4, n=2),
        RequestConfig(best_of=3),
        RequestConfig(prompt_logprobs=1),
        RequestConfig(temperature=-1),
        RequestConfig(top_p=2),
    ],
    ids=lambda config: ' '.join(key for key, value in asdict(config).items() if value != asdict(RequestConfig())[key]),
)
def test_what_cannot_be_done_is_refused_by_name(engine, config):
    with pytest.raises(RequestError) as caught:
        engine.infer([asked('Hi')], config)
    assert caught.value.param in str(caught.value)


@pytest.mark.parametrize(
    'request_', [InferRequest([]), InferRequest([{'role': 'user'}]), InferRequest([{'role': 'king', 'content': 'x'}])]
)
def test_conversations_that_cannot_be_read_are_refused(engine, request_):
    with pytest.raises(RowError):
        engine.infer([request_], EIGHT)


@pytest.mark.parametrize(
    ('content', 'more', 'said'),
    [
        ('x', {'images': ['a.png']}, 'takes text alone; send no pictures'),
        ([{'type': 'image_url', 'image_url': {'url': 'x'}}], {}, 'takes text alone; send no pictures'),
        ([{'type': 'input_audio', 'input_audio': {'data': ''}}], {}, 'is sent sounds, which are not built yet'),
        ('x', {'videos': ['a.mp4'], 'audios': ['a.wav']}, 'is sent videos and sounds, which are not built yet'),
    ],
)
def test_media_are_refused_by_name(engine, content, more, said):
    with pytest.raises(RequestError, match=f'{engine.model_name} {said}'):
        engine.infer([InferRequest([{'role': 'user', 'content': content}], **more)], EIGHT)


def test_one_bad_request_gives_its_error_in_its_place(engine):
    good, bad = asked('Hi'), InferRequest([])
    found = list(engine.answers((request, EIGHT) for request in (good, bad, good)))
    assert isinstance(found[1], SwiftError)
    assert found[0].choices == found[2].choices


def test_a_single_adapter_answers_by_default_and_others_by_name(folder, tmp_path):
    paths = [adapter(tmp_path / name, tiny.model(), seed=i) for i, name in enumerate(('v1.0', 'second'))]
    wanted = [expected(PeftModel.from_pretrained(tiny.model(), path).eval(), 'Hi') for path in paths]
    engine = TransformersEngine(folder, adapters=paths[:1])
    answer = lambda **options: engine.infer([asked('Hi')], EIGHT, **options)[0].choices[0].message.content
    assert answer() == wanted[0]
    assert answer(adapter_request=AdapterRequest('other', paths[1])) == wanted[1]
    assert answer() == wanted[0]
    base = engine.stream(asked('Hi'), EIGHT, adapter='')
    assert ''.join(chunk.choices[0].delta.content for chunk in base) == expected(tiny.model(), 'Hi')
    engine.close()
    with pytest.raises(ModelError):
        TransformersEngine(folder, adapters=[tmp_path])


def test_a_peft_model_in_memory_answers_with_its_adapter(folder, tmp_path):
    path = adapter(tmp_path / 'a', tiny.model())
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), path)
    engine = TransformersEngine(wrapped)
    found = engine.infer([asked('Hi')], EIGHT)[0].choices[0].message.content
    engine.close()
    assert found == expected(wrapped.eval(), 'Hi')


def test_metrics_see_every_response(engine):
    class Metric:
        seen = 0

        def update(self, response):
            self.seen += response.usage.completion_tokens

    metric = Metric()
    engine.infer([asked('Hi')] * 3, EIGHT, [metric], use_tqdm=False)
    assert metric.seen == 24


def test_bf16_models_answer_too(tmp_path):
    engine = TransformersEngine(tiny.folder(tmp_path / 'half', dtype='bfloat16'), max_batch_size=-1)
    responses = engine.infer([asked(text) for text in QUESTIONS], RequestConfig(max_tokens=5, temperature=1, seed=1))
    engine.close()
    assert all(response.usage.completion_tokens == 5 for response in responses)
    assert torch.bfloat16 == engine.engine._scheduler.runner.model.dtype
