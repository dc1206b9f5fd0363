"""A server over each engine, which every test of this folder that asks for it shares: vLLM takes a minute to start."""

from __future__ import annotations

import openai
import pytest

from tests.serve.oracles import ENGINES, opened
from tests.serve.running import running, until


@pytest.fixture(scope='package', params=ENGINES)
def served(request, tmp_path_factory):
    """(server, what it will say)."""
    with opened(request.param, tmp_path_factory.mktemp('served')) as (made, oracle), running(made) as server:
        yield server, oracle
        until(lambda: not server.house.open and not server.house.asked)
        assert server.engine.stats()['open'] == 0


@pytest.fixture
def oracle(served):
    """What the server will say."""
    return served[1]


@pytest.fixture(scope='package')
def asking(served):
    """The client of OpenAI."""
    with openai.OpenAI(base_url=served[0].url, api_key='EMPTY', max_retries=0) as made:
        yield made
