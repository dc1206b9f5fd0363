"""Names that need no hub: paths, and models that packages carry."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swift.core.errors import DataError, ModelError
from swift.hub import fetch, shipped
from swift.hub.repository import Repository


def test_an_existing_path_is_returned_as_it_is(tmp_path):
    file = tmp_path / 'a.jsonl'
    file.write_text('{}')
    assert fetch(str(tmp_path)) == tmp_path
    assert fetch(str(file), kind='dataset') == file


def test_a_path_imports_no_hub_client(tmp_path):
    code = (
        'import sys; from swift.hub import fetch; fetch(sys.argv[1]);'
        'print([name for name in sys.modules if name.split(".")[0] in ("huggingface_hub", "modelscope_hub", "torch")])'
    )
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('name', ['./none', '/none/at/all', '~/none', 'data/train.jsonl', 'x.gguf', 'a/b/c', ''])
def test_a_path_that_does_not_exist_is_not_sent_to_a_hub(name):
    with pytest.raises(ModelError, match='no such file or folder'):
        fetch(name)
    with pytest.raises(DataError, match='no such file or folder'):
        fetch(name, kind='dataset')


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable module that carries a model and must not be imported."""
    folder = tmp_path / 'carrier'
    folder.mkdir()
    (folder / '__init__.py').write_text('raise ImportError("needs a library that is not here")')
    (folder / 'tiny.gguf').write_bytes(b'GGUF')
    monkeypatch.syspath_prepend(tmp_path)
    entry = shipped.Shipped(('acme/Tiny', 'Tiny'), 'the-carrier', 'carrier', 'tiny.gguf', 'whole')
    monkeypatch.setattr(shipped, 'entries', lambda: (entry,))
    return folder / 'tiny.gguf'


@pytest.mark.parametrize('name', ['acme/Tiny', 'acme/tiny', 'Tiny', 'tiny'])
def test_a_package_that_carries_the_model_is_found_without_importing_it(package, name):
    assert fetch(name) == package


def test_a_revision_asks_for_the_copy_of_the_hub(package, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ModelError, match='HF_HUB_OFFLINE'):
        fetch('acme/Tiny', use_hf=True, revision='main')


def test_a_package_without_its_file_is_no_model(package):
    package.unlink()
    assert shipped.find('acme/Tiny') is None


def test_every_shipped_model_has_a_name_and_says_what_it_is():
    for entry in shipped.entries():
        assert entry.names and entry.package and entry.note and entry.file


def test_a_token_is_not_shown_with_the_repository():
    assert 'secret' not in repr(Repository('a/b', 'model', token='secret'))
