"""Damage to weight files is found by their headers."""

from __future__ import annotations

import json

import pytest

from swift.core.errors import ModelError
from swift.models import weights
from tests import tiny

SECOND = 'model-00002-of-00003.safetensors'


@pytest.fixture
def sharded(tmp_path):
    """A model in three shards."""
    tiny.model().save_pretrained(tmp_path, max_shard_size='60KB')
    assert (tmp_path / SECOND).is_file()
    return tmp_path


def test_whole_shards_are_counted(sharded):
    assert weights.check(sharded) == sum(parameter.numel() for parameter in tiny.model().parameters())


def test_a_missing_shard_is_named(sharded):
    (sharded / SECOND).unlink()
    with pytest.raises(ModelError, match=f'{SECOND} is missing'):
        weights.check(sharded)


@pytest.mark.parametrize('keep', [0, 4, 100, -1])
def test_a_shard_that_was_cut_off_is_named(sharded, keep):
    path = sharded / SECOND
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=SECOND):
        weights.check(sharded)


def test_bytes_after_the_end_are_found(sharded):
    with (sharded / SECOND).open('ab') as file:
        file.write(b'x')
    with pytest.raises(ModelError, match=r'has [\d,]+ bytes, not'):
        weights.check(sharded)


def test_a_file_of_something_else_is_named(sharded):
    (sharded / SECOND).write_bytes(b'<!DOCTYPE html>' * 100)
    with pytest.raises(ModelError, match=f'{SECOND} is no'):
        weights.check(sharded)


def test_a_tensor_that_only_the_index_has_is_named(sharded):
    path = sharded / weights.INDEX
    index = json.loads(path.read_text())
    index['weight_map']['model.ghost'] = SECOND
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f'{SECOND} lacks 1 tensors of the index, model.ghost'):
        weights.check(sharded)


@pytest.mark.parametrize('text', ['{', '{}', '{"weight_map": 3}'])
def test_a_broken_index_is_named(sharded, text):
    (sharded / weights.INDEX).write_text(text)
    with pytest.raises(ModelError, match=r'index\.json: cannot be read'):
        weights.check(sharded)


def test_no_weights_at_all_says_what_is_there(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(ModelError, match=r'no weights: expected model\.safetensors.*has config\.json'):
        weights.check(tmp_path)


def test_pickled_weights_are_left_to_the_loader(tmp_path):
    (tmp_path / 'pytorch_model.bin').touch()
    assert weights.check(tmp_path) is None
