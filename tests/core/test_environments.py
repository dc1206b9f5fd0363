"""Environments of other packages: built step by step, and ready only when what they are for can be imported."""

import pytest

from swift.core import environments
from swift.core.environments import Environment
from swift.core.errors import SwiftError


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path))
    calls = []
    monkeypatch.setattr(environments, 'call', lambda command, folder: calls.append(' '.join(command)))
    monkeypatch.setattr(environments, '_index', lambda: ['--extra-index-url', 'of-processors'])
    return calls


def test_the_build_for_processors_is_looked_for_where_it_lies(made):
    environment = Environment('backends', 'tool-cpu', ('tool==1',), cpu=True)
    environments.build(environment, lambda text: None)
    assert made[-1].endswith('--extra-index-url of-processors tool==1')
    assert environment.ready


def test_what_cannot_be_imported_is_not_ready(made, monkeypatch):
    environment = Environment('backends', 'tool', ('tool==1',), proof='tool.server')

    def fails(command, folder):
        if 'import tool.server' in command:
            raise SwiftError('no module')

    monkeypatch.setattr(environments, 'call', fails)
    with pytest.raises(SwiftError, match='no module'):
        environments.build(environment, lambda text: None)
    assert not environment.ready
    monkeypatch.setattr(environments, 'call', lambda command, folder: made.append(command[-1]))
    environments.build(environment, lambda text: None)
    assert made == ['import tool.server']
    assert environment.ready
