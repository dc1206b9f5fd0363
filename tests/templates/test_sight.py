"""Prompts with pictures have the ids of the checkpoint's own processor."""

import io

import pytest
from PIL import Image

from swift import models, templates
from swift.core.errors import RequestError, RowError
from swift.core.types import PICTURE, Message
from swift.models.args import ModelArgs
from swift.templates.args import TemplateArgs
from tests import seeing, tiny


@pytest.fixture(scope='module', params=seeing.FAMILIES)
def opened(request, tmp_path_factory):
    folder = seeing.folder(tmp_path_factory.mktemp('sight') / request.param, request.param)
    return models.load(ModelArgs(model=str(folder)), seeing=True)


@pytest.fixture(scope='module')
def template(opened):
    return templates.make(opened.tokenizer, opened.info, TemplateArgs(), eye=opened.eye)


def user(text: str) -> Message:
    """A turn in which every tag is a picture."""
    places = [at for at in range(len(text)) if text.startswith(PICTURE, at)]
    return Message('user', text, pictures=tuple(places))


def by_processor(opened, messages, pictures):
    """Ids as transformers gives them."""
    images = iter(Image.open(io.BytesIO(data)) for data in pictures)
    told = []
    for message in messages:
        parts = []
        for i, text in enumerate(message.content.split(PICTURE) if message.pictures else [message.content]):
            parts += [{'type': 'image', 'image': next(images)}] if i else []
            parts += [{'type': 'text', 'text': text}] if text else []
        told.append({'role': message.role, 'content': parts})
    processor = opened.eye._processor
    made = processor.apply_chat_template(told, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(made['input_ids'][0])


CONVERSATIONS = [
    [user('<image>What is this?')],
    [user('Compare <image> with <image>.')],
    [user('<image>What?'), Message('assistant', 'A dog.'), user('And here: <image>')],
    [user('No picture at all.')],
]


@pytest.mark.parametrize('messages', CONVERSATIONS)
def test_ids_are_those_of_the_processor(opened, template, messages):
    pictures = [seeing.picture(i, 40 + 30 * i, 50) for i in range(sum(len(each.pictures) for each in messages))]
    assert template.prompt(messages, pictures=pictures) == by_processor(opened, messages, pictures)


def test_what_somebody_writes_is_never_taken_for_a_picture(opened, template):
    data, token = [seeing.picture(1)], opened.eye.token
    shown = lambda text: template.prompt([Message('user', PICTURE + text, pictures=(0,))], pictures=data)
    id = opened.tokenizer.convert_tokens_to_ids(token)
    says = f' is {PICTURE} or {token}, and {token} too'
    assert shown(says).count(id) == shown(' is a dog').count(id)
    assert says in template.tokenizer.decode(shown(says))


def test_places_and_pictures_must_agree(template):
    with pytest.raises(RowError, match='places for 1 pictures, and 0 are given'):
        template.prompt([user('<image>What?')])
    with pytest.raises(RowError, match='places for 0 pictures, and 1 are given'):
        template.prompt([Message('user', 'What?')], pictures=[seeing.picture(1)])
    with pytest.raises(RowError, match='stands in an answer'):
        template.prompt(
            [Message('user', 'Draw.'), Message('assistant', '<image>', pictures=(0,)), Message('user', 'So?')],
            pictures=[seeing.picture(1)],
        )


def test_a_template_that_shows_no_pictures_is_refused(opened):
    made = templates.make(opened.tokenizer, opened.info, TemplateArgs(template='chatml'), eye=opened.eye)
    with pytest.raises(RowError):
        made.prompt([user('<image>What?')], pictures=[seeing.picture(1)])


def test_a_model_that_takes_text_alone_says_so(tmp_path):
    builder = models.load(ModelArgs(model=str(tiny.folder(tmp_path / 'tiny', template=seeing.CHATML))))
    made = templates.make(builder.tokenizer, builder.info, TemplateArgs())
    with pytest.raises(RequestError, match='takes text alone'):
        made.prompt([user('<image>What?')], pictures=[seeing.picture(1)])
