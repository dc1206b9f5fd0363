"""Libraries in environments of their own: found, checked, started, asked, and gone with us however we go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from swift import InferRequest, RequestConfig, VllmEngine
from swift.core import environments
from swift.core.errors import ConfigError, HangError, ModelError, UnavailableError
from swift.core.types import Request, Sampling
from swift.engines import LIBRARIES, backend, installed, lmdeploy, sglang, vllm
from swift.engines.args import EngineArgs, LmdeployArgs, SglangArgs, VllmArgs
from swift.engines.backend import Job, Place, ServerEngine, words
from swift.engines.child import ChildEngine, Recipe
from swift.engines.installed import Installed
from swift.engines.opening import Groups, as_json, settings_of
from swift.models.args import ModelArgs
from tests import tiny
from tests.adapters import adapter
from tests.engines import fake_library

GROUPS = {'vllm': VllmArgs, 'sglang': SglangArgs, 'lmdeploy': LmdeployArgs}
SAMPLING = Sampling(max_tokens=8)


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    return fake_library.environment(tmp_path_factory.mktemp('library') / 'env')


@pytest.fixture
def start(python, tmp_path):
    """Opens the fake vLLM."""
    made = []

    def make(timeout=60.0, adapters=None, **how):
        settings = {'additional_config': how} if how else {}
        job = Job(tmp_path / 'model', 'tiny', 'float32', 128, adapters=adapters or {}, settings=settings)
        decode = lambda ids: bytes(ids).decode(errors='replace')
        made.append(ServerEngine(vllm.BACKEND, job, decode=decode, python=python, timeout=timeout))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pids_of(engine: ServerEngine) -> list[int]:
    """The guard, the server and its worker."""
    text = engine.server.last_words()
    worker = int(text.split('worker ')[1].split()[0])
    server = int(Path(f'/proc/{worker}/stat').read_text().rpartition(')')[2].split()[1])
    guard = int(Path(f'/proc/{server}/stat').read_text().rpartition(')')[2].split()[1])
    return [guard, server, worker]


# --------------------------------------------------------------------------------------------------------- the server
def test_a_library_answers_through_its_own_server(start):
    engine = start()
    pieces = list(engine.stream(Request('r', tuple(b'abc'), SAMPLING)))
    assert ''.join(piece.text for piece in pieces) == 'cba'
    assert pieces[-1].finish == 'stop'


def test_closing_the_engine_ends_all_its_processes(start):
    engine = start()
    pids = pids_of(engine)
    assert all(map(running, pids))
    engine.close()
    assert gone(pids, 1)
    engine.close()


def test_nothing_is_left_when_we_are_killed(python, tmp_path):
    code = (
        'import os, signal; from pathlib import Path; from swift.engines import vllm; '
        'from swift.engines.backend import Job, ServerEngine\n'
        f'e = ServerEngine(vllm.BACKEND, Job(Path("m"), "m", "float32"), decode=str, python="{python}")\n'
        'worker = int(e.server.last_words().split("worker ")[1].split()[0])\n'
        'parent = lambda pid: int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])\n'
        'socket = e.server.last_words().split("--uds ")[1].split()[0]\n'
        'print(socket, parent(parent(worker)), parent(worker), worker, flush=True)\n'
        'os.kill(os.getpid(), signal.SIGKILL)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    socket, *pids = done.stdout.split()
    assert gone([int(pid) for pid in pids])
    assert not Path(socket).parent.exists()


def test_nothing_is_left_when_the_guard_is_killed(start):
    engine = start()
    guard, server, _ = pids_of(engine)
    os.kill(guard, signal.SIGKILL)
    assert gone([guard, server])


def test_a_server_that_does_not_start_says_why(start):
    with pytest.raises(UnavailableError, match=r'vLLM ended with exit code 3(.|\n)*ValueError: no such model'):
        start(crash='no such model')


def test_a_server_that_takes_too_long_is_ended(start):
    with pytest.raises(HangError, match=r'not ready after 1 s .--backend_timeout'):
        start(timeout=1.0, slow=60)


def test_requests_fail_with_the_reason_when_the_server_dies(start, tmp_path):
    engine = start(die=str(tmp_path / 'died'))
    with pytest.raises(UnavailableError, match='vLLM ended with signal 9'):
        list(engine.stream(Request('r', tuple(b'abc'), SAMPLING)))
    assert engine.stats()['failed'] == 1


def test_in_a_process_of_its_own_it_is_started_again(python, tmp_path):
    flags = Groups(
        model=ModelArgs(model=str(tiny.folder(tmp_path / 'tiny'))),
        engine=EngineArgs(infer_backend='vllm', backend_python=python),
        vllm=VllmArgs(vllm_engine_kwargs={'additional_config': {'die': str(tmp_path / 'died')}}),
    )
    engine = ChildEngine(Recipe('swift.engines.opening:open_tokens', as_json(flags)))
    try:
        engine.wait(300)
        with pytest.raises(UnavailableError):
            list(engine.stream(Request('r', tuple(b'abc'), SAMPLING)))
        deadline = time.monotonic() + 300
        while engine.stats()['starts'] < 2 or not engine.ready:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [id for piece in engine.stream(Request('r', (5, 6, 7), SAMPLING)) for id in piece.ids] == [7, 6, 5]
    finally:
        engine.close()


def test_adapters_are_loaded_once_it_runs(start, tmp_path):
    folder = adapter(tmp_path / 'law', tiny.model())
    log = tmp_path / 'log'
    engine = start(adapters={'law': folder}, log=str(log))
    assert engine.adapters == ('law',)
    assert json.loads(log.read_text()) == ['/v1/load_lora_adapter', {'lora_name': 'law', 'lora_path': str(folder)}]
    assert '--enable-lora --max-loras 1 --max-lora-rank 8' in engine.server.last_words()


def test_scripts_open_a_library_by_its_class(python, tmp_path):
    folder = tiny.folder(tmp_path / 'tiny')
    engine = VllmEngine(folder, python=python, max_num_seqs=4, max_model_len=64, engine_kwargs={'seed': 3})
    asked = InferRequest([{'role': 'user', 'content': 'Hi'}])
    (response,) = engine.infer([asked], RequestConfig(max_tokens=64, return_details=True))
    assert response.choices[0].token_ids == response.prompt_token_ids[::-1]
    said = engine.engine.server.last_words()
    assert all(words in said for words in ('--max-num-seqs 4', '--seed 3', '--max-model-len 64', '--dtype float32'))
    engine.close()
    with pytest.raises(ConfigError, match='did you mean tensor_parallel_size'):
        VllmEngine(folder, python=python, tensor_parallel_sise=2)


def test_the_key_and_the_socket_are_private(start):
    engine = start()
    said = engine.server.last_words()
    socket = Path(said.split('--uds ')[1].split()[0])
    assert socket.parent.stat().st_mode & 0o077 == 0
    key = engine._connection._client.headers['Authorization'].removeprefix('Bearer ')
    assert len(key) > 40
    assert key not in said
    engine.close()
    assert not socket.parent.exists()


# ----------------------------------------------------------------------------------------------------- where it is
def test_arguments_are_checked_against_the_version_that_is_there(python):
    found = installed.find(vllm.PACKAGE, python)
    assert (found.version, found.cpu, found.asked) == ('0.99.0', True, True)
    with pytest.raises(ConfigError) as raised:
        installed.check(vllm.PACKAGE, found, {'tensor_paralel_size': 2, 'served_model_name': 'x', 'colour': 'red'})
    first, second = raised.value.problems
    assert 'did you mean tensor_parallel_size' in first
    assert second.startswith("--vllm_colour 'red': vLLM 0.99.0 takes no such argument")


def test_a_version_whose_source_says_nothing_is_checked_by_our_table(python, monkeypatch):
    package = replace(vllm.PACKAGE, file='nowhere.py')
    found = installed.find(package, python)
    assert not found.asked
    installed.check(package, found, {'tensor_parallel_size': 2, 'speculative_config': {}})
    with pytest.raises(ConfigError, match='in the table of what we know'):
        installed.check(package, found, {'colour': 'red'})


@pytest.mark.parametrize('name', LIBRARIES)
def test_a_library_that_is_missing_is_said_with_the_line_that_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path))
    package = LIBRARIES[name].package
    with pytest.raises(ConfigError, match=f'(?s){package.name} is not installed.*swift doctor --install {name}'):
        installed.find(package, None)
    with pytest.raises(ConfigError, match='--backend_python /nowhere: there is no such file'):
        installed.find(package, '/nowhere')
    with pytest.raises(ConfigError, match='is not installed there'):
        installed.find(package, sys.executable)


def test_an_environment_that_doctor_built_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path))
    built = vllm.PACKAGE.environment('cpu')
    fake_library.environment(built.home / 'env')
    with pytest.raises(ConfigError, match='not installed'):
        installed.find(vllm.PACKAGE, None)
    (built.home / environments.DONE).touch()
    assert installed.find(vllm.PACKAGE, None).python == str(built.python)


def test_every_flag_of_a_library_is_an_argument_of_the_version_in_our_table():
    removed = {'enable_ep_moe'}  # of SGLang, whose older versions have it
    for name, group in GROUPS.items():
        found = LIBRARIES[name]
        known = set(installed.table(found.package))
        flags = {flag.removeprefix(f'{name}_') for flag in group.__dataclass_fields__} - {'engine_kwargs'}
        assert {found.renamed.get(flag, flag) for flag in flags} - known <= removed


# ---------------------------------------------------------------------------------------------------- command lines
def lines(library, job: Job, tmp_path, distribution: str = 'x') -> list[str]:
    found = Installed('python', distribution, '1', frozenset(), True)
    started = library.start(job, found, Place(tmp_path, 8123, 'key'))
    return ' '.join(started.arguments)


def test_settings_of_flags_leave_the_rest_to_the_library():
    found = settings_of(VllmArgs(vllm_tensor_parallel_size=4, vllm_engine_kwargs={'max_num_seqs': 8}), vllm.BACKEND)
    assert found == {
        'gpu_memory_utilization': 0.9, 'tensor_parallel_size': 4, 'pipeline_parallel_size': 1, 'data_parallel_size': 1,
        'max_num_seqs': 8, 'disable_custom_all_reduce': True, 'max_lora_rank': 16,
    }  # fmt: skip
    assert settings_of(VllmArgs(vllm_enable_prefix_caching=False), vllm.BACKEND)['enable_prefix_caching'] is False
    assert settings_of(LmdeployArgs(), lmdeploy.BACKEND)['vision_max_batch_size'] == 1
    with pytest.raises(ConfigError, match=r'--vllm_engine_kwargs .*a JSON object'):
        settings_of(VllmArgs(vllm_engine_kwargs='fast'), vllm.BACKEND)


def test_words_of_a_command_line():
    settings = {'a_b': 2, 'on': True, 'off': False, 'none': None, 'some': [1, 2], 'object': {'image': 5}}
    assert list(words(settings)) == ['--a-b', '2', '--on', '--no-off', '--some', '1', '2', '--object', '{"image": 5}']


def test_vllm_gets_all_gpus_and_a_cache_of_its_own_only_without_them(tmp_path, monkeypatch):
    monkeypatch.delenv('VLLM_CPU_KVCACHE_SPACE', raising=False)
    settings = settings_of(VllmArgs(vllm_tensor_parallel_size=2), vllm.BACKEND)
    job = Job(Path('/m'), 'm', 'bfloat16', 4096, settings=settings)
    said = lines(vllm, job, tmp_path)
    assert '--model /m --uds' in said
    assert '--tensor-parallel-size 2' in said
    assert '--gpu-memory-utilization 0.9' in said
    assert '--max-model-len 4096' in said
    assert '--generation-config vllm' in said
    on_processor = lines(vllm, job, tmp_path, 'vllm-cpu')
    assert '--kv-cache-memory-bytes' in on_processor
    assert '--gpu-memory-utilization' not in on_processor
    asked = replace(job, settings={**settings, 'gpu_memory_utilization': 0.5})
    assert '--gpu-memory-utilization 0.5' in lines(vllm, asked, tmp_path, 'vllm-cpu')


def test_vllm_makes_room_for_the_ranks_of_the_adapters(tmp_path):
    folder = adapter(tmp_path / 'a', tiny.model(), r=20)
    job = Job(Path('/m'), 'm', 'bfloat16', adapters={'a': folder, 'b': folder}, settings={'max_lora_rank': 16})
    assert '--max-lora-rank 32' in lines(vllm, job, tmp_path)
    assert '--max-loras 2' in lines(vllm, job, tmp_path)
    (folder / 'adapter_config.json').write_text('{"peft_type": "IA3"}')
    with pytest.raises(ModelError, match='takes LoRA adapters, not IA3'):
        lines(vllm, job, tmp_path)


def test_sglang_reads_everything_from_a_private_file(tmp_path):
    settings = settings_of(SglangArgs(sglang_tp_size=2, sglang_context_length=512), sglang.BACKEND)
    job = Job(Path('/m'), 'm', 'bfloat16', adapters={'a': Path('/a')}, settings=settings)
    assert lines(sglang, job, tmp_path) == f'-m sglang.launch_server --config {tmp_path}/server.yaml'
    config = tmp_path / 'server.yaml'
    assert config.stat().st_mode & 0o077 == 0
    said = json.loads(config.read_text())
    assert {said['tp-size'], said['port'], said['api-key'], said['context-length']} == {2, 8123, 'key', 512}
    assert said['lora-paths'] == ['a=/a']
    assert 'disable-cuda-graph' not in said


def test_lmdeploy_takes_no_adapters(tmp_path):
    settings = settings_of(LmdeployArgs(lmdeploy_tp=2), lmdeploy.BACKEND)
    job = Job(Path('/m'), 'm', 'float32', settings=settings)
    said = lines(lmdeploy, job, tmp_path)
    assert said.startswith('-m lmdeploy serve api_server /m --server-name 127.0.0.1 --server-port 8123')
    assert '--tp 2' in said
    assert '--dtype auto' in said
    with pytest.raises(ConfigError, match='merge the adapter'):
        lines(lmdeploy, replace(job, adapters={'a': Path('/a')}), tmp_path)


def test_ports_are_free_when_they_are_asked_for():
    assert backend.free_port() != backend.free_port()
