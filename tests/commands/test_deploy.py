"""swift deploy as it runs: a real model in its own process, adapters by name, the end, and what nobody may see."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from peft import PeftModel

from swift import run_deploy
from swift.commands.configs import resolve
from swift.core.errors import ConfigError
from tests import tiny
from tests.adapters import adapter
from tests.engines.plain import reference
from tests.proof.crowd import ask, together
from tests.proof.deployed import ROOT, children, deployed, gone, until

TEXTS = ['Who are you?', 'What is the capital of France?', '你是谁？', 'The quick brown fox']
SECRET = 'sk-very-secret'


def user(text):
    return [{'role': 'user', 'content': text}]


def expected(model, text, count=8):
    tokenizer = tiny.tokenizer()
    prompt = tokenizer.apply_chat_template(user(text), add_generation_prompt=True)['input_ids']
    return tokenizer.decode(reference(model, prompt, count), skip_special_tokens=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp('model') / 'tiny')


@pytest.fixture(scope='module')
def served(folder, tmp_path_factory):
    """A server with two adapters, a key from the environment and an audit log."""
    room = tmp_path_factory.mktemp('served')
    paths = {name: adapter(room / name, tiny.model(), seed=i) for i, name in enumerate(('shop', 'law'))}
    flags = ['--model', folder, '--adapters', *(f'{name}={path}' for name, path in paths.items())]
    audit = room / 'audit.jsonl'
    with deployed(*flags, '--audit_log', audit, '--served_model_name', 'base', key=SECRET) as server:
        yield server, paths, audit


@pytest.fixture(scope='module')
def client(served):
    with openai.OpenAI(base_url=served[0].url, api_key=SECRET, max_retries=0) as made:
        yield made


def test_greedy_answers_are_those_of_transformers(client):
    for text in TEXTS:
        answer = client.chat.completions.create(model='base', messages=user(text), max_tokens=8, temperature=0)
        assert answer.choices[0].message.content == expected(tiny.model(), text)


def test_no_answer_comes_from_the_wrong_adapter(client, served):
    models = {'base': tiny.model()}
    models |= {name: PeftModel.from_pretrained(tiny.model(), path).eval() for name, path in served[1].items()}
    wanted = {(name, text): expected(model, text) for name, model in models.items() for text in TEXTS}
    assert len({wanted[name, TEXTS[0]] for name in models}) == 3

    def ask(pair):
        name, text = pair
        answer = client.chat.completions.create(model=name, messages=user(text), max_tokens=8, temperature=0)
        return pair, answer.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        for pair, text in pool.map(ask, list(wanted) * 2):
            assert text == wanted[pair], pair
    assert [model.id for model in client.models.list()] == ['base', 'shop', 'law']


def test_of_many_streams_those_that_stay_get_what_they_get_alone_and_nothing_leaks(served):
    server, paths, _ = served
    port, names = server.port, ('base', *paths)
    bodies = [
        {
            'model': names[i % 3],
            'messages': user(f'{i} {TEXTS[i % 4]}'),
            'max_tokens': 90,
            'seed': i,
            'temperature': 0.7,
        }
        for i in range(18)
    ]
    alone = [together(ask(port, body, key=SECRET))[0] for body in bodies[::2]]
    leave = [None if i % 2 == 0 else 0.02 * i for i in range(18)]
    pairs = zip(bodies, leave, strict=True)
    found = together(*(ask(port, body, key=SECRET, leave_after=after) for body, after in pairs))[::2]
    assert all(heard.whole for heard in found)
    assert [heard.text for heard in found] == [heard.text for heard in alone]
    until(lambda: server.numbers()['swift_engine_open'] == 0)
    until(lambda: server.numbers()['swift_engine_kv_used'] == 0)
    numbers = server.numbers()
    assert numbers['swift_engine_accepted'] == numbers['swift_engine_finished'] + numbers['swift_engine_aborted']


def test_plain_prompts_are_continued_as_they_stand(client):
    ids = tiny.tokenizer()('The quick')['input_ids']
    wanted = tiny.tokenizer().decode(reference(tiny.model(), ids, 6), skip_special_tokens=True)
    for prompt in ('The quick', ids):
        answer = client.completions.create(model='base', prompt=prompt, max_tokens=6, temperature=0)
        assert answer.choices[0].text == wanted


def test_a_prompt_is_as_likely_as_the_model_says(client):
    ids = tiny.tokenizer()(TEXTS[1])['input_ids']
    with torch.no_grad():
        wanted = tiny.model()(torch.tensor([ids])).logits[0].log_softmax(-1)
    answer = client.completions.create(model='base', prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True)
    found = answer.choices[0].logprobs.token_logprobs
    assert found[0] is None
    assert found[1 : len(ids)] == pytest.approx([float(wanted[t, id]) for t, id in enumerate(ids[1:])], abs=1e-4)


def test_answers_follow_a_schema_and_schemas_that_are_none_are_refused(client):
    shape = {'type': 'object', 'properties': {'a': {'enum': [1, 2]}}, 'required': ['a'], 'additionalProperties': False}
    asked = {'model': 'base', 'messages': user('Hi'), 'max_tokens': 60, 'temperature': 0}
    form = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': shape}}
    answer = client.chat.completions.create(**asked, response_format=form)
    assert json.loads(answer.choices[0].message.content)['a'] in (1, 2)
    answer = client.chat.completions.create(**asked, extra_body={'guided_choice': ['red', 'green']})
    assert answer.choices[0].message.content in ('red', 'green')
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**asked, stream=stream, extra_body={'guided_regex': '(['})
        assert caught.value.param == 'response_format'


def test_a_prompt_that_is_too_long_and_tokens_that_are_none_are_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model='base', messages=user('word ' * 5000))
    assert caught.value.code == 'context_length_exceeded'
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model='base', prompt=[399_999])


def test_keys_are_seen_nowhere(client, served):
    server, _, audit = served
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url, api_key='wrong', max_retries=0).models.list()
    for pid in (server.process.pid, *children(server.process.pid)):
        assert SECRET not in Path(f'/proc/{pid}/cmdline').read_text()
    assert SECRET not in audit.read_text()


def test_sigterm_ends_with_0_and_leaves_no_process_and_an_audit_log_that_is_right(folder, tmp_path):
    audit = tmp_path / 'audit.jsonl'
    with deployed('--model', folder, '--audit_log', audit) as server:
        openai.OpenAI(base_url=server.url, api_key='x').chat.completions.create(
            model='tiny', messages=user('Hi'), max_tokens=4
        )
        below = children(server.process.pid)
        assert below
        assert server.end()[0] == 0
        assert all(gone(pid) for pid in below)
    command = [sys.executable, '-m', 'swift.cli', 'audit', 'verify', audit, '--json']
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    head = json.loads(found.stdout)
    assert head['entries'] == 1
    audit.write_text(audit.read_text().replace('"status": 200', '"status": 201'))
    changed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert changed.returncode == 74 and ':1: was changed' in changed.stderr


def test_no_engine_outlives_a_server_that_was_killed(folder):
    with deployed('--model', folder) as server:
        below = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        until(lambda: all(gone(pid) for pid in below))


@pytest.mark.parametrize(
    ('flags', 'problem'),
    [
        (['--host', '0.0.0.0'], 'others can reach it'),
        (['--ssl_certfile', 'x.pem'], 'give both or neither'),
        (['--port', '70000'], 'expected 0'),
        (['--parallel', '0'], 'must be at least 1'),
        (['--drain', '-1'], 'must be 0 or more'),
        (['--max_logprobs', '21'], 'expected 0 to 20'),
        (['--serve_model_name', 'x'], 'did you mean served_model_name'),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_loaded(folder, flags, problem):
    with pytest.raises(ConfigError, match=problem):
        resolve('deploy', ['--model', str(folder), *flags])


def test_a_port_in_use_and_a_model_that_cannot_be_opened_end_with_2(folder, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, '-m', 'swift.cli', 'deploy', '--model', folder, '--port', port]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and 'in use' in done.stderr
    (folder / 'model.safetensors').rename(tmp_path / 'weights')
    try:
        command[-1] = '0'
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    finally:
        (tmp_path / 'weights').rename(folder / 'model.safetensors')
    assert done.returncode == 2, done.stderr
    assert re.search('swift: .*safetensors', done.stderr)


def test_python_serves_in_the_background(folder):
    with run_deploy(['--model', str(folder), '--port', '0', '--temperature', '0'], return_url=True) as url:
        client = openai.OpenAI(base_url=url, api_key='x', max_retries=0)
        answer = client.chat.completions.create(model='tiny', messages=user(TEXTS[0]), max_tokens=8)
        assert answer.choices[0].message.content == expected(tiny.model(), TEXTS[0])
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
