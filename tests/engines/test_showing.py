"""Pictures as scripts, rows and people at the terminal give them: all ways show the model the same."""

from __future__ import annotations

import pytest

from swift import TransformersEngine
from swift.core.errors import RequestError
from swift.core.types import Request
from swift.engines import wire
from swift.engines.protocol import InferRequest, RequestConfig
from swift.engines.terminal import Chat
from tests import seeing
from tests.engines.test_terminal import Screen
from tests.models.test_pictures import url

EIGHT = RequestConfig(max_tokens=8, temperature=0)
ONE, TWO = seeing.picture(1), seeing.picture(2, 90, 50)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    made = TransformersEngine(seeing.folder(tmp_path_factory.mktemp('showing') / 'idefics3', 'idefics3'))
    yield made
    made.close()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for name, data in (('one.png', ONE), ('two.png', TWO)):
        (folder / name).write_bytes(data)
    return folder


def answer(engine, content, *images) -> str:
    request = InferRequest([{'role': 'user', 'content': content}], images=list(images))
    return engine.infer([request], EIGHT)[0].choices[0].message.content


def test_parts_tags_and_columns_show_the_same(engine, files):
    path = str(files / 'one.png')
    wanted = answer(engine, '<image>What?', path)
    text = {'type': 'text', 'text': 'What?'}
    assert answer(engine, 'What?', path) == wanted  # without a tag it stands first
    assert answer(engine, '<image>What?', {'bytes': ONE, 'path': None}) == wanted
    assert answer(engine, [{'type': 'image', 'image': path}, text]) == wanted
    assert answer(engine, [{'type': 'image'}, text], path) == wanted
    assert answer(engine, [{'type': 'image_url', 'image_url': {'url': url(ONE)}}, text]) == wanted
    assert answer(engine, '<image>What?', str(files / 'two.png')) != wanted


def test_pictures_stand_where_their_tags_do(engine, files):
    paths = [str(files / name) for name in ('one.png', 'two.png')]
    parts = [
        {'type': 'image', 'image': paths[0]},
        {'type': 'text', 'text': 'and '},
        {'type': 'image', 'image': paths[1]},
    ]
    assert answer(engine, '<image>and <image>', *paths) == answer(engine, parts)
    assert answer(engine, '<image>and <image>', *reversed(paths)) != answer(engine, parts)


def test_pictures_that_do_not_fit_their_places_are_refused(engine):
    with pytest.raises(RequestError, match='1 images for 2 tags'):
        answer(engine, '<image> or <image>?', ONE)
    with pytest.raises(RequestError, match='give all in one way'):
        answer(engine, [{'type': 'image', 'image': ONE}], TWO)


def test_a_tag_in_words_alone_is_a_word(engine):
    assert engine.request(InferRequest([{'role': 'user', 'content': 'Say <image>'}]), EIGHT).pictures == ()


def test_a_conversation_asks_for_the_picture_of_each_tag_and_remembers_it(engine, files):
    screen = Screen('<image>What?', str(files / 'one.png'), 'And now <image>?', str(files / 'two.png'), '/clear', 'Hi')
    kept = []
    Chat(engine, EIGHT, read=screen.read, write=screen.write, keep=lambda *row: kept.append(row)).run()
    (asked, first), (longer, second), (alone, _) = kept
    images = [ONE, TWO]
    assert first == answer(engine, '<image>What?', ONE)
    again = engine.infer([InferRequest(list(longer), images=images)], EIGHT)[0].choices[0].message.content
    assert second == again
    assert (len(asked), len(longer), len(alone)) == (1, 3, 1)


def test_a_picture_that_cannot_be_read_leaves_the_conversation_as_it_was(engine, files):
    screen = Screen('<image>What?', 'nowhere.png', 'Hi')
    chat = Chat(engine, EIGHT, read=screen.read, write=screen.write)
    chat.run()
    assert 'nowhere.png: no such file' in screen.text
    assert [message['content'] for message in chat.messages][:1] == ['Hi']
    assert chat.images == []


def test_pictures_travel_to_another_process_as_they_are():
    request = Request('x', (1, 2), pictures=(ONE, bytes(range(256))))
    (message,) = wire.Frames().push(wire.frame(['begin', wire.request_out(request)]))
    assert wire.request_in(message[1]) == request
