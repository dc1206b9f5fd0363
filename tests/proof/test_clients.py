"""Clients that others wrote, as they are, against ``swift deploy`` with SmolLM2 on its own engine.

They live in environments of their own, whose Pythons two variables name; a test whose client is not there is skipped:

    python -m venv clients && clients/bin/pip install torch && clients/bin/pip install transformers langchain-openai 'lm-eval[api]'
    SWIFT_TEST_CLIENTS=clients/bin/python SWIFT_TEST_VLLM=... bash yichuidingyin.sh test --with slow tests/proof
"""  # noqa: E501

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.proof.deployed import deployed
from tests.proof.worlds import SMOLLM2, folder

CLIENTS, VLLM = os.environ.get('SWIFT_TEST_CLIENTS'), os.environ.get('SWIFT_TEST_VLLM')
SCRIPTS = Path(__file__).parent / 'clients'
FLAGS = [
    '--torch_dtype',
    'float32',
    '--served_model_name',
    'base',
    '--agent_template',
    'hermes',
    '--log_interval',
    '-1',
]

pytestmark = pytest.mark.slow
with_clients = pytest.mark.skipif(not CLIENTS, reason='SWIFT_TEST_CLIENTS names no Python')
with_vllm = pytest.mark.skipif(not VLLM, reason='SWIFT_TEST_VLLM names no Python')


@pytest.fixture(scope='module')
def server():
    with deployed('--model', SMOLLM2, *FLAGS) as made:
        yield made


def heard(server, python, script, *words):
    """What a client says that it heard."""
    alone = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    command = [python, SCRIPTS / script, server.url, 'base', *words]
    done = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    print(script, done.stdout.splitlines()[-1])
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{')))


@with_clients
def test_langchain_asks_streams_calls_tools_and_gets_its_forms(server):
    found = heard(server, CLIENTS, 'of_langchain.py')
    assert 'Paris' in found['whole']
    assert (found['streamed'], found['counted']) == (found['whole'], found['usage'])
    assert found['several'] == [found['whole']] * 4
    for call in ('call', 'streamed call'):
        name, arguments = found[call]
        assert (name, arguments['city']) == ('get_weather', 'Paris')
    assert found['after'] and found['strict'] and found['logprobs'] == 2
    for form in found['forms'].values():
        assert set(form) == {'city', 'people'} and isinstance(form['people'], int)


@with_clients
def test_lm_eval_measures_what_the_model_measures_of_itself(server):
    model = folder()
    found = heard(server, CLIENTS, 'of_lm_eval.py', model)
    for country, row in zip(('France', 'Italy', 'Germany', 'Spain'), found['tokens']['chooses'], strict=True):
        wanted = likelihoods(model, f'The capital of {country} is', [' Paris', ' Rome', ' Berlin', ' Madrid'])
        assert [likely for likely, _ in row] == pytest.approx(wanted, abs=2e-3)
        assert [greedy for _, greedy in row] == [each == max(wanted) for each in wanted]
    assert found['texts']['writes'] == found['tokens']['writes'] == [[' Paris'], [' Rome'], [' Berlin'], [' Madrid']]
    assert len(found['chat']['writes']) == 4


def likelihoods(model, context, choices):
    """Log-likelihood of each choice after the context, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reader, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    reader, found = reader.float().eval(), []
    begin = len(tokenizer(context)['input_ids'])
    for choice in choices:
        ids = torch.tensor([tokenizer(context + choice)['input_ids']])
        with torch.no_grad():
            rows = reader(ids).logits.log_softmax(-1)[:, :-1]
        found.append(float(rows.gather(2, ids[:, 1:, None])[0, begin - 1 :].sum()))
    return found


@with_vllm
def test_vllms_benchmark_counts_every_answer(server):
    found = heard(server, VLLM, 'of_vllm_bench.py', folder())
    for numbers in found.values():
        assert (numbers['completed'], numbers['failed'], numbers['total_output_tokens']) == (24, 0, 24 * 24)
