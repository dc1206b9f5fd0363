"""Pictures by the official clients of OpenAI and Anthropic: three APIs, one answer, and refusals that teach."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace

import anthropic
import openai
import pytest

from swift.engines.api import ChatEngine
from swift.models import pictures
from swift.serve.bounds import Bounds
from tests import seeing
from tests.engines.test_pictures import World
from tests.models.test_pictures import claiming, url
from tests.serve.running import house, running, until

ASKED = 'What is it?'
PICTURE, OTHER = seeing.picture(1), seeing.picture(2, 90, 50, 'JPEG')
BODY = 200_000  # bytes beyond which a body is a large one


@pytest.fixture(scope='module', params=['qwen2_vl', 'llava'])
def world(request, tmp_path_factory):
    return World(seeing.folder(tmp_path_factory.mktemp('served') / request.param, request.param))


@pytest.fixture(scope='module')
def server(world):
    made = house(bounds=replace(Bounds(), body_bytes=BODY, media_body_bytes=4 * BODY, large_bodies=2))
    made.chat.close()
    engine = world.engine()
    special = world.builder.tokenizer.get_added_vocab()
    made.chat = ChatEngine(engine, world.template, model_name='fake', max_model_len=512, special=special)
    with running(made) as served:
        yield served
        until(lambda: not served.house.open and not served.house.asked)


@pytest.fixture(scope='module')
def client(server):
    with openai.OpenAI(base_url=server.url, api_key='EMPTY', max_retries=0) as made:
        yield made


def part(data: bytes, kind: str = 'image/png', **more):
    return {'type': 'image_url', 'image_url': {'url': url(data, kind), **more}}


def user(*parts):
    return [{'role': 'user', 'content': [*parts, {'type': 'text', 'text': ASKED}]}]


def greedy(*parts, **more):
    return {'model': 'fake', 'messages': user(*parts), 'max_tokens': 8, 'temperature': 0, **more}


def expected(world, *pictures):
    """Prompt tokens, and the text of what ``generate`` says."""
    request = world.ask('it', *pictures, max_tokens=8)
    return len(request.prompt_ids), world.template.decode(world.generate(request))


@pytest.mark.parametrize('pictures', [(PICTURE,), (PICTURE, OTHER), ()])
def test_an_answer_is_that_of_generate_and_usage_counts_what_pictures_take(world, client, pictures):
    kinds = ('image/png', 'image/jpeg')
    parts = [part(data, kind, detail='auto') for data, kind in zip(pictures, kinds, strict=False)]
    prompt, text = expected(world, *pictures)
    answer = client.chat.completions.create(**greedy(*parts))
    assert answer.choices[0].message.content == text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 8)
    chunks = client.chat.completions.create(**greedy(*parts, stream=True))
    assert ''.join(chunk.choices[0].delta.content or '' for chunk in chunks if chunk.choices) == text


def test_the_responses_api_gives_the_same(world, client):
    prompt, text = expected(world, PICTURE)
    content = [{'type': 'input_image', 'image_url': url(PICTURE)}, {'type': 'input_text', 'text': ASKED}]
    answer = client.responses.create(
        model='fake', input=[{'role': 'user', 'content': content}], max_output_tokens=8, temperature=0
    )
    assert (answer.output_text, answer.usage.input_tokens) == (text, prompt)


def test_the_messages_api_gives_the_same(world, server):
    prompt, text = expected(world, PICTURE)
    source = {'type': 'base64', 'media_type': 'image/png', 'data': base64.b64encode(PICTURE).decode()}
    content = [{'type': 'image', 'source': source}, {'type': 'text', 'text': ASKED}]
    asked = {'model': 'fake', 'messages': [{'role': 'user', 'content': content}]}
    with anthropic.Anthropic(base_url=f'http://127.0.0.1:{server.port}', api_key='x', max_retries=0) as client:
        answer = client.messages.create(**asked, max_tokens=8, extra_body={'temperature': 0})
        assert (answer.content[0].text, answer.usage.input_tokens) == (text, prompt)
        assert client.messages.count_tokens(**asked).input_tokens == prompt


@pytest.mark.parametrize(
    'address, why',
    [
        ('http://169.254.169.254/latest', 'Addresses are not fetched'),
        ('file:///etc/passwd', 'Addresses are not fetched'),
        ('data:image/svg+xml;base64,AAAA', 'png, jpeg, webp or gif'),
        ('data:image/png;base64,?', 'not valid base64'),
        ('data:image/png;base64,AAAA', 'no png, jpeg, webp or gif'),
        (url(claiming(50000, 50000)), '50,000,000 pixels'),
        (url(seeing.picture(3, 64, 64)[:-2000]), 'damaged'),
    ],
)
def test_what_is_no_picture_is_refused_by_its_number_and_with_the_fix(server, address, why):
    parts = [part(PICTURE), {'type': 'image_url', 'image_url': {'url': address}}]
    status, body, _ = server.post('/v1/chat/completions', greedy(*parts))
    assert (status, body['error']['param']) == (400, 'messages')
    assert 'picture 2: ' in body['error']['message']
    assert why in body['error']['message']


def test_pictures_are_bounded_in_number_and_in_pixels_together(server):
    status, body, _ = server.post('/v1/chat/completions', greedy(*[part(PICTURE)] * 17))
    assert (status, body['error']['message']) == (400, 'messages: picture 17: at most 16 are taken in a request')
    status, body, _ = server.post('/v1/chat/completions', greedy(*[part(claiming(5000, 4000))] * 3))
    assert status == 400
    assert 'picture 3: the request has more than 50,000,000 pixels' in body['error']['message']


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (900, 2)])
def test_odd_pictures_are_answered_or_refused_and_never_a_fault(server, size):
    status, body, _ = server.post('/v1/chat/completions', greedy(part(seeing.picture(4, *size))))
    assert status == 200 or (status == 400 and 'cannot take pictures of' in body['error']['message'])


def broken(draw: random.Random) -> str:
    """A picture that was cut, changed in a few bytes, or left as it is, under any of the types."""
    data = bytearray(seeing.picture(draw.randrange(4), 30, 20, draw.choice(pictures.FORMATS)))
    if draw.random() < 0.4:
        del data[draw.randrange(len(data)) :]
    for _ in range(draw.randrange(4)):
        if data:
            data[draw.randrange(min(len(data), 80))] = draw.randrange(256)
    return url(bytes(data), f'image/{draw.choice(("png", "jpeg", "webp", "gif", "bmp"))}')


def test_broken_pictures_are_refused_or_answered_and_the_next_answer_is_the_same(server):
    canary = lambda: server.post('/v1/chat/completions', greedy(part(PICTURE)))[1]['choices']
    draw, wanted = random.Random(0), canary()
    for _ in range(80):
        parts = [{'type': 'image_url', 'image_url': {'url': broken(draw)}} for _ in range(draw.randrange(1, 3))]
        assert server.post('/v1/chat/completions', greedy(*parts))[0] in (200, 400)
        assert server.get('/metrics')[0] == 200
    assert canary() == wanted


def test_large_bodies_are_taken_a_few_at_a_time(server):
    padding = 'x' * (2 * BODY)
    large = json.dumps(greedy(part(PICTURE), user=padding)).encode()
    assert server.post('/v1/chat/completions', large)[0] in (200, 400)
    assert server.post('/v1/chat/completions', b'{' + b' ' * (5 * BODY))[0] == 413
    waiting = []

    def full() -> bool:
        waiting.append(server.raw(server.request(large)[:-10]))
        return server.post('/v1/chat/completions', large)[0] == 503

    until(full, 'any number of large bodies is taken')
    assert server.post('/v1/chat/completions', greedy(part(PICTURE)))[0] == 200
    for each in waiting:
        each.close()
    until(lambda: server.post('/v1/chat/completions', large)[0] != 503, 'those that left are still counted')


def test_a_model_that_takes_text_alone_says_so():
    with running() as server:
        for path, body in (
            ('/v1/chat/completions', greedy(part(PICTURE))),
            ('/v1/responses', {'model': 'fake', 'input': [{'role': 'user', 'content': [
                {'type': 'input_image', 'image_url': url(PICTURE)}]}]}),
        ):  # fmt: skip
            status, answer, _ = server.post(path, body)
            assert status == 400
            assert 'picture 1: fake takes text alone; send no pictures' in answer['error']['message']
        large = json.dumps(greedy(user='x' * (5 << 20))).encode()
        assert server.post('/v1/chat/completions', large)[0] == 413
