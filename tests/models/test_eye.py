"""Models that see are opened with their processors, without torchvision."""

import importlib.util
import io
import json

import pytest
import torch
from PIL import Image

from swift import models
from swift.core.errors import ModelError, RequestError
from swift.models.args import ModelArgs
from tests import seeing, tiny

VIDEOS = importlib.util.find_spec('torchvision') is not None


@pytest.fixture(scope='module', params=seeing.FAMILIES)
def opened(request, tmp_path_factory):
    folder = seeing.folder(tmp_path_factory.mktemp('eyes') / request.param, request.param)
    return models.load(ModelArgs(model=str(folder)), seeing=True)


def test_a_description_says_that_a_model_sees(opened, tmp_path):
    assert models.describe(ModelArgs(model=str(opened.info.path))).sees
    assert not models.describe(ModelArgs(model=str(tiny.folder(tmp_path / 'tiny')))).sees


def test_its_whole_model_is_built_with_every_weight(opened):
    model = opened.build()
    assert type(model).__name__ == opened.info.architecture
    assert type(model).__name__.endswith('ForConditionalGeneration')


def test_what_it_makes_of_pictures_is_what_the_processor_makes_of_them_in_a_text(opened):
    files = [seeing.picture(1), seeing.picture(2, 90, 50)]
    token, processor = opened.eye.token, opened.eye._processor
    text = f'One {token} and {token} two'
    theirs = processor(text=[text], images=[[Image.open(io.BytesIO(data)) for data in files]], return_tensors='pt')
    first, second = opened.eye.words(files)
    ids = opened.tokenizer(f'One {first} and {second} two').input_ids
    assert ids == theirs['input_ids'][0].tolist()
    ours = opened.eye.inputs(files, ids)
    assert set(ours) == set(theirs) - {'input_ids', 'attention_mask'}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_picture_that_is_damaged_is_an_error_of_its_request(opened):
    with pytest.raises(RequestError, match='damaged'):
        opened.eye.words([seeing.picture(3, 64, 64)[:-2000]])


@pytest.mark.skipif(VIDEOS, reason='torchvision is here')
def test_a_processor_that_needs_torchvision_leaves_a_model_that_says_so(opened, tmp_path, caplog):
    folder = seeing.folder(tmp_path / 'llava', 'llava')
    path = folder / 'processor_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), 'processor_class': 'PixtralProcessor'}))
    blind = models.load(ModelArgs(model=str(folder)), seeing=True)
    with pytest.raises(RequestError, match=r'takes text alone here: .*Torchvision.*; pip install torchvision'):
        blind.eye.words([seeing.picture(1)])


def test_what_only_reads_text_refuses_a_model_that_has_no_form_without_its_eyes(tmp_path):
    folder = seeing.folder(tmp_path / 'llava', 'llava')
    with pytest.raises(ModelError, match=r'is multimodal: it answers \(swift infer, swift deploy\)'):
        models.load(ModelArgs(model=str(folder)))
    (folder / 'preprocessor_config.json').unlink()
    (folder / 'processor_config.json').unlink()
    with pytest.raises(ModelError, match='has no preprocessor_config'):
        models.load(ModelArgs(model=str(folder)), seeing=True)
