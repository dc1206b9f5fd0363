"""Requests drawn from the server's own schema, right and wrong: no 500, the same refusal with and without stream."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift.engines.fake import FakeEngine
from swift.serve import schema
from swift.serve.errors import ANTHROPIC
from swift.serve.routes import ROUTES
from tests.serve.drawing import anything, mutated, spoiled, values
from tests.serve.running import running, small

SHORT, LONG = 100, int(os.environ.get('SWIFT_FUZZ', '5000'))
KINDS = [(route.path, route.kind) for route in ROUTES if route.kind and 'adapter' not in route.path]
QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
ALLOWED = {200, 400, 404}


@pytest.fixture(scope='module')
def server():
    with running(engine=FakeEngine(max_model_len=120), bounds=small(idle_seconds=600)) as made:
        yield made
        made.is_well()


@pytest.fixture(scope='module')
def connection(server):
    made = http.client.HTTPConnection('127.0.0.1', server.port, timeout=60)
    with contextlib.closing(made):
        yield made


def drawn(kind):
    whole = kind.model_json_schema()
    return values(whole, whole.get('$defs', {}))


def post(connection, path, body):
    data = json.dumps(body).encode()
    connection.request('POST', path, data, {'content-type': 'application/json'})
    response = connection.getresponse()
    return response.status, response.read()


def check(connection, path, kind, body):
    """One request; with ``stream`` turned round it is refused with the same words."""
    status, said = post(connection, path, body)
    assert status in ALLOWED, (body, said)
    if status == 200:
        return
    error = json.loads(said)['error']
    missing = status == 404 and path.startswith(ANTHROPIC)
    assert error['message'] and error['type'] == ('not_found_error' if missing else 'invalid_request_error')
    of_streams = {'stream_options', 'prompt_logprobs'}  # fields that go with a stream only, or never
    if 'stream' not in kind.model_fields or not isinstance(body, dict) or of_streams & body.keys():
        return
    if isinstance(body.get('stream', False), bool):
        again = post(connection, path, {**body, 'stream': not body.get('stream', False)})
        assert (again[0], json.loads(again[1])['error']) == (status, error)


def fuzz(path, kind, count, connection):
    @settings(max_examples=count, deadline=None, suppress_health_check=QUIET, database=None, derandomize=count == SHORT)
    @given(
        st.one_of(
            drawn(kind), spoiled(drawn(kind)), st.dictionaries(st.sampled_from(sorted(kind.model_fields)), anything)
        )
    )
    def run(body):
        check(connection, path, kind, body)

    run()


@pytest.mark.parametrize(('path', 'kind'), KINDS, ids=[kind.__name__ for _, kind in KINDS])
def test_requests_drawn_from_the_schema_never_break_the_server(server, connection, path, kind):
    fuzz(path, kind, SHORT, connection)


@pytest.mark.slow
@pytest.mark.parametrize(('path', 'kind'), KINDS, ids=[kind.__name__ for _, kind in KINDS])
def test_the_same_for_longer(server, connection, path, kind):
    fuzz(path, kind, LONG, connection)


@pytest.mark.parametrize('count', [500, pytest.param(40 * LONG, marks=pytest.mark.slow)])
def test_bodies_with_one_thing_changed_never_break_the_server(server, connection, count):
    draw, seen = random.Random(count), Counter()
    seeds = {path: _seeds(kind, min(300, count // 10)) for path, kind in KINDS}
    connection.close()  # the server has closed it: that took longer than a connection is kept open
    for i in range(count):
        path = KINDS[i % len(KINDS)][0]
        data = mutated(draw.choice(seeds[path]), draw)
        connection.request('POST', path, data, {'content-type': 'application/json'})
        response = connection.getresponse()
        said = response.read()
        seen[response.status] += 1
        assert response.status in ALLOWED, (data, said)
    print(dict(seen))
    assert min(seen[200], seen[400]) > count / 100


ARGUMENTS = {
    'type': 'object',
    'properties': {'x': {'type': 'string', 'enum': ['a', 'b']}, 'y': {'type': 'array', 'items': {'type': 'integer'}}},
    'required': ['x'],
    'additionalProperties': False,
}
TOOL = {'name': 'f', 'description': 'It does.', 'parameters': ARGUMENTS, 'strict': True}
OF_CHAT = (
    {'response_format': {'type': 'json_object'}},
    {'response_format': {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': ARGUMENTS, 'strict': True}}},
    {'guided_regex': '[ab]{2}c*'},
    {'guided_choice': ['a', 'b']},
    {'structured_outputs': {'grammar': 'start: "a" | "b"'}},
    {'tools': [{'type': 'function', 'function': TOOL}], 'tool_choice': 'required'},
    {'tools': [{'type': 'function', 'function': TOOL}], 'parallel_tool_calls': False},
)
OF_RESPONSES = (
    {'text': {'format': {'type': 'json_schema', 'name': 'x', 'schema': ARGUMENTS}}},
    {'tools': [{'type': 'function', **TOOL}], 'tool_choice': {'type': 'function', 'name': 'f'}},
)
OF_MESSAGES = (
    {'output_config': {'format': {'type': 'json_schema', 'schema': ARGUMENTS}}},
    {'tools': [{'name': 'f', 'input_schema': ARGUMENTS, 'strict': True}], 'tool_choice': {'type': 'any'}},
)
HI = [{'role': 'user', 'content': 'Hi'}]
FORMED = [
    *(('/v1/chat/completions', {'messages': HI, 'max_tokens': 2, **form}) for form in OF_CHAT),
    *(('/v1/responses', {'input': 'Hi', 'max_output_tokens': 16, **form}) for form in OF_RESPONSES),
    *(('/v1/messages', {'model': 'fake', 'messages': HI, 'max_tokens': 2, **form}) for form in OF_MESSAGES),
]


@pytest.mark.parametrize('count', [300, pytest.param(LONG, marks=pytest.mark.slow)])
def test_forms_and_tools_with_one_thing_changed_never_break_an_engine(served, count):
    draw, (server, _) = random.Random(count), served
    for i in range(count):
        path, body = FORMED[i % len(FORMED)]
        data = mutated({**body, 'stream': draw.random() < 0.5}, draw)
        status, said, _ = server.post(path, data)
        assert status in ALLOWED, (data, said)
        assert 'engine_error' not in str(said), (data, said)


def _seeds(kind, count):
    """Right bodies, of short answers."""
    found = []
    short = {name: 2 for name in ('max_tokens', 'max_output_tokens') if name in kind.model_fields}

    @settings(max_examples=count, deadline=None, suppress_health_check=QUIET, database=None, derandomize=True)
    @given(drawn(kind))
    def draw(body):
        found.append({**body, **short})

    draw()
    return found


@pytest.mark.slow
def test_schemathesis_finds_nothing(server):
    schemathesis = pytest.importorskip('schemathesis')
    loaded = schemathesis.openapi.from_url(f'http://127.0.0.1:{server.port}/openapi.json')
    for operation in loaded.get_all_operations():

        @settings(max_examples=LONG // 20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.ok().as_strategy())
        def run(case):
            response = case.call()
            assert response.status_code not in (500, 502, 504), response.text
            assert response.status_code < 500 or 'retry-after' in response.headers or case.path in ('/ping', '/ready')

        run()


def test_the_documentation_is_made_of_what_validates(server):
    made = server.get('/openapi.json')[1]
    parts = made['components']['schemas']
    assert {kind.__name__ for _, kind in KINDS} <= parts.keys()
    assert parts['ChatRequest']['additionalProperties'] is False
    assert parts['ChatRequest']['properties']['temperature']['anyOf'][0]['maximum'] == 2.0
    assert set(parts['ChatRequest']['properties']) == set(schema.ChatRequest.model_fields)
    assert not [name for name in parts if '__' in name], 'two classes have one name'
    refused = made['paths']['/v1/messages']['post']['responses']['400']['content']['application/json']['schema']
    assert refused == {'$ref': '#/components/schemas/AnthropicError'}
    told = json.dumps(made)
    for reference in {line.partition('"')[0] for line in told.split('#/components/schemas/')[1:]}:
        assert reference in parts
