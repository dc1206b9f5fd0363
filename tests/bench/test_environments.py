"""Where the Pythons of the peers come from."""

import sys

import pytest

from swift.bench import environments
from swift.bench.peers import PEERS
from swift.core import environments as building
from swift.core.errors import ConfigError, SwiftError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path))


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(building, 'call', lambda command, folder: made.append(' '.join(command)))
    monkeypatch.setattr(building, 'put_stand_ins', lambda environment: made.append('stand-ins'))
    return made


def test_an_environment_of_the_users_is_taken_as_it_is():
    assert environments.pythons([], [f'ms-swift={sys.executable}']) == {'ms-swift': sys.executable}


def test_trls_python_serves_the_plain_loop_too():
    assert environments.pythons([], [f'trl={sys.executable}']).keys() == {'trl', 'plain'}


@pytest.mark.parametrize(
    ('wanted', 'given', 'said'),
    [
        (['ms-swfit'], [], 'did you mean ms-swift'),
        (['trl'], [], 'swift bench prepare trl'),
        ([], ['trl=/nowhere/python'], 'there is no file'),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(wanted, given, said):
    with pytest.raises(ConfigError, match=said):
        environments.pythons(wanted, given)


def test_preparing_takes_torch_first_and_holds_it_there(calls):
    said = []
    assert environments.prepare(['llama-factory'], said.append) == []
    assert calls[1].endswith(f'torch=={environments.TORCH}')
    assert calls[2] == 'stand-ins' and '-c ' in calls[3] and calls[3].endswith('llamafactory==0.9.5')
    assert 'llama-factory' in environments.pythons([], [])
    assert any('torchaudio' in line for line in said)


def test_preparing_goes_on_where_it_was_stopped(calls, monkeypatch):
    record = building.call

    def fails(command, folder):
        if 'install' in command and not command[-1].startswith('torch'):
            raise SwiftError('no network')
        record(command, folder)

    monkeypatch.setattr(building, 'call', fails)
    assert environments.prepare(['trl'], lambda text: None) == ['trl']
    assert 'trl' not in environments.pythons([], [])
    monkeypatch.setattr(building, 'call', record)
    before = len(calls)
    environments.prepare(['trl'], lambda text: None)
    assert len(calls) == before + 1  # only the packages were missing
    environments.prepare(['trl'], lambda text: None)
    assert len(calls) == before + 1


def test_every_peer_has_a_driver():
    assert all(peer.script.is_file() for peer in PEERS.values())
