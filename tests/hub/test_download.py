"""Both hubs through their real clients, on a fake server: what arrives, what is refused, what works offline."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants as hf
import pytest

from swift.core.errors import DataError, DiskError, ModelError
from swift.hub import fetch, safe_snapshot_download
from tests.hub.conftest import WEIGHTS


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def weight_requests(hub, method: str = 'GET') -> list[str]:
    """Range headers of the requests for the weights."""
    return [span for verb, path, span in hub.log if verb == method and 'model.safetensors' in path]


# -------------------------------------------------------------------------------------------------- what arrives
def test_a_model_arrives_with_one_form_of_its_weights(hub, use_hf):
    folder = fetch('acme/tiny', use_hf=use_hf)
    assert files(folder) == {
        'config.json': b'{"model_type": "llama"}',
        'model.safetensors': WEIGHTS,
        'notes/readme.txt': b'hello',
    }


def test_a_dataset_arrives_whole(hub, use_hf):
    folder = fetch('acme/tiny', kind='dataset', use_hf=use_hf)
    assert files(folder) == hub.repositories['acme/tiny']


def test_patterns_choose_files(hub, use_hf):
    assert set(files(fetch('acme/tiny', use_hf=use_hf, allow=['*.json', '*.bin']))) == {
        'config.json',
        'pytorch_model.bin',
    }


def test_patterns_leave_files_out(hub, use_hf):
    assert set(files(fetch('acme/tiny', use_hf=use_hf, ignore=['*.safetensors', 'notes/*']))) == {
        'config.json',
        'pytorch_model.bin',
    }


def test_the_established_name_can_leave_the_weights_out(hub, use_hf):
    folder = safe_snapshot_download('acme/tiny', download_model=False, use_hf=use_hf)
    assert set(files(Path(folder))) == {'config.json', 'notes/readme.txt'}


def test_a_revision_brings_its_own_files(hub, use_hf):
    hub.branches['acme/tiny', 'v2'] = {'config.json': b'{"v": 2}', 'model.safetensors': WEIGHTS[::-1]}
    first = fetch('acme/tiny', use_hf=use_hf)
    second = fetch('acme/tiny', use_hf=use_hf, revision='v2')
    assert (second / 'config.json').read_bytes() == b'{"v": 2}'
    assert (second / 'model.safetensors').read_bytes() == WEIGHTS[::-1]
    assert (first / 'model.safetensors').read_bytes() == WEIGHTS


def test_the_same_call_again_asks_nothing(hub, use_hf):
    first = fetch('acme/tiny', use_hf=use_hf)
    hub.log.clear()
    assert fetch('acme/tiny', use_hf=use_hf) == first
    assert hub.log == []


def test_a_file_that_went_missing_is_fetched_again(hub, use_hf):
    folder = fetch('acme/tiny', use_hf=use_hf)
    (folder / 'config.json').unlink()
    assert files(fetch('acme/tiny', use_hf=use_hf))['config.json'] == b'{"model_type": "llama"}'


def test_a_token_opens_a_gated_model_and_is_written_nowhere(hub, use_hf, tmp_path):
    hub.gated.add('acme/tiny')
    folder = fetch('acme/tiny', use_hf=use_hf, token='good-and-secret')
    assert (folder / 'model.safetensors').read_bytes() == WEIGHTS
    written = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert not [path for path in written if b'good-and-secret' in path.read_bytes()]


# ------------------------------------------------------------------------------------------------ what goes wrong
def test_a_cut_connection_is_continued_where_it_broke(hub, use_hf):
    hub.cut['model.safetensors'] = 100_000
    folder = fetch('acme/tiny', use_hf=use_hf)
    assert (folder / 'model.safetensors').read_bytes() == WEIGHTS
    whole, rest = weight_requests(hub)
    assert whole == '' and rest.startswith('bytes=') and rest != 'bytes=0-'


def test_other_bytes_than_listed_are_refused_and_not_kept(hub, use_hf, monkeypatch):
    monkeypatch.setattr('modelscope_hub._download.DOWNLOAD_HASH_RETRY_TIMES', 1)
    hub.swapped['model.safetensors'] = b'x' * len(WEIGHTS)
    for _ in range(2):
        with pytest.raises(ModelError, match=r'model\.safetensors arrived with other bytes'):
            fetch('acme/tiny', use_hf=use_hf)
    hub.swapped.clear()
    assert (fetch('acme/tiny', use_hf=use_hf) / 'model.safetensors').read_bytes() == WEIGHTS


def test_a_missing_model_names_the_hub_that_was_asked(hub, use_hf):
    title, other = ('Hugging Face', 'leave out --use_hf') if use_hf else ('ModelScope', '--use_hf true')
    with pytest.raises(ModelError, match=f'acme/none: {title} has no such model.*{other}'):
        fetch('acme/none', use_hf=use_hf)


def test_a_missing_dataset_is_a_data_error(hub, use_hf):
    with pytest.raises(DataError, match='has no such dataset'):
        fetch('acme/none', kind='dataset', use_hf=use_hf)


def test_a_missing_revision_is_named(hub, use_hf):
    with pytest.raises(ModelError, match="revision 'v9'"):
        fetch('acme/tiny', use_hf=use_hf, revision='v9')


def test_a_gated_model_says_how_to_open_it(hub, use_hf):
    hub.gated.add('acme/tiny')
    with pytest.raises(ModelError, match=r'accept its terms on .*--hub_token'):
        fetch('acme/tiny', use_hf=use_hf)


def test_a_full_disk_is_a_disk_error(hub, use_hf, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('modelscope_hub.HubApi.download_repo', fail)
    monkeypatch.setattr('swift.hub.huggingface.snapshot_download', fail)
    with pytest.raises(DiskError, match='No space left'):
        fetch('acme/tiny', use_hf=use_hf)


def test_several_gguf_files_must_be_chosen_from(hub, use_hf):
    hub.repositories['acme/gguf'] = {'a.Q4.gguf': b'a', 'a.Q8.gguf': b'b', 'README.md': b'c'}
    with pytest.raises(ModelError, match=r'2 GGUF files \(a\.Q4\.gguf, a\.Q8\.gguf\)'):
        fetch('acme/gguf', use_hf=use_hf)


@pytest.mark.parametrize('path', ['../outside.txt', '/etc/outside.txt', 'a/../../outside.txt'])
def test_a_listed_path_that_leaves_its_folder_is_refused(hub, use_hf, path):
    hub.repositories['acme/evil'] = {'config.json': b'{}', path: b'x'}
    with pytest.raises(DataError, match='not a relative path'):
        fetch('acme/evil', use_hf=use_hf)


KILLED = """
import sys
from swift.hub import fetch
fetch('acme/tiny', use_hf=sys.argv[1] == 'True')
"""


def test_a_kill_in_the_middle_leaves_no_half_file_and_the_next_call_continues(hub, use_hf, tmp_path):
    hub.pace = 0.01
    environment = os.environ | {'HF_ENDPOINT': hub.url, 'HF_HUB_CACHE': hf.HF_HUB_CACHE, 'HF_HUB_OFFLINE': '0'}
    environment |= {'HF_HUB_DISABLE_XET': '1', 'MODELSCOPE_DOWNLOAD_CHUNK_SIZE_MB': '1'}
    process = subprocess.Popen([sys.executable, '-c', KILLED, str(use_hf)], env=environment, stderr=subprocess.DEVNULL)
    while not weight_requests(hub) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert weight_requests(hub), 'the process never asked for the weights'
    for path in tmp_path.rglob('model.safetensors'):
        assert path.read_bytes() == WEIGHTS
    hub.pace = 0
    assert (fetch('acme/tiny', use_hf=use_hf) / 'model.safetensors').read_bytes() == WEIGHTS


# ------------------------------------------------------------------------------------------------ without network
def test_offline_with_no_copy_says_what_to_do(hub, use_hf, monkeypatch):
    monkeypatch.setattr(hf, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ModelError) as caught:
        fetch('acme/tiny', use_hf=use_hf)
    for word in ('HF_HUB_OFFLINE', 'download', 'FOLDER', 'the other hub'):
        assert word in str(caught.value)
    assert hub.log == []


def test_offline_takes_what_another_program_has_downloaded(hub, use_hf, monkeypatch, tmp_path):
    folder = fetch('acme/tiny', use_hf=use_hf)
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'another'))  # no record of ours
    monkeypatch.setattr(hf, 'HF_HUB_OFFLINE', True)
    hub.log.clear()
    assert fetch('acme/tiny', use_hf=use_hf) == folder
    assert hub.log == []


def test_a_hub_that_is_down_leaves_the_copy_in_use(hub, use_hf, monkeypatch, tmp_path, caplog):
    folder = fetch('acme/tiny', use_hf=use_hf)
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'another'))
    unplug(monkeypatch)
    assert fetch('acme/tiny', use_hf=use_hf) == folder
    assert 'out of reach' in caplog.text


def test_a_download_that_was_not_finished_is_no_copy(hub, use_hf, monkeypatch):
    hub.cut['model.safetensors'] = 100_000
    monkeypatch.setattr('swift.hub.download.ATTEMPTS', 0)
    with pytest.raises(ModelError, match='broke off; run again to continue'):
        fetch('acme/tiny', use_hf=use_hf)
    monkeypatch.setattr(hf, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ModelError, match='no whole copy'):
        fetch('acme/tiny', use_hf=use_hf)


def test_a_hub_that_is_down_says_what_to_do(hub, use_hf, monkeypatch):
    unplug(monkeypatch)
    with pytest.raises(ModelError, match='out of reach'):
        fetch('acme/tiny', use_hf=use_hf)


def unplug(monkeypatch):
    """No server at the clients' address, and no patience."""
    nowhere = 'http://127.0.0.1:9'
    monkeypatch.setenv('MODELSCOPE_ENDPOINT', nowhere)
    monkeypatch.setattr(hf, 'ENDPOINT', nowhere)
    monkeypatch.setattr('modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS', 1)


def test_the_environment_chooses_endpoint_and_cache(hub, use_hf, tmp_path):
    code = 'import sys; from swift.hub import fetch; print(fetch("acme/tiny", use_hf=sys.argv[1] == "True"))'
    environment = os.environ | {'HF_ENDPOINT': hub.url, 'HF_HOME': str(tmp_path / 'home of hf'), 'HF_HUB_OFFLINE': '0'}
    environment |= {'MODELSCOPE_CACHE': str(tmp_path / 'home of ms'), 'HF_HUB_DISABLE_XET': '1'}
    done = subprocess.run([sys.executable, '-c', code, str(use_hf)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = tmp_path / ('home of hf' if use_hf else 'home of ms')
    assert Path(done.stdout.strip().splitlines()[-1]).is_relative_to(home)
