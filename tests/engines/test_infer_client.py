"""InferClient: conversations to a server that speaks chat completions, by the names that scripts know."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import asdict, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swift import InferClient, InferRequest, RequestConfig, TransformersEngine
from swift.core.errors import ConfigError, RequestError, SwiftError
from swift.engines import infer_client
from tests import tiny

QUESTIONS = ['Who are you?', 'What is the capital of France?', '你是谁？']
EIGHT = RequestConfig(max_tokens=8, temperature=0)


def asked(text: str) -> InferRequest:
    return InferRequest([{'role': 'user', 'content': text}])


class Handler(BaseHTTPRequestHandler):
    """A server of chat completions over an engine of ours, which adds a field that nobody knows."""

    engine: TransformersEngine
    bodies: list[dict]
    models = ('tiny',)
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.say({'data': [{'id': name} for name in self.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.bodies.append(body)
        if body['messages'][-1]['content'] == 'fail':
            return self.say({'error': {'message': 'no', 'param': 'messages'}}, 400)
        known = {spec.name for spec in fields(RequestConfig)}
        config = RequestConfig(**{name: value for name, value in body.items() if name in known})
        request = InferRequest(body['messages'])
        if not config.stream:
            (response,) = self.engine.infer([request], config)
            return self.say({**asdict(response), 'service_tier': 'best'})
        self.send_response(200)
        self.send_header('Connection', 'close')
        self.end_headers()
        for chunk in self.engine.infer([request], config)[0]:
            self.wfile.write(f'data: {json.dumps(asdict(chunk))}\n\n'.encode())
        self.wfile.write(b'data: [DONE]\n\n')
        self.close_connection = True

    def say(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    made = TransformersEngine(str(tiny.folder(tmp_path_factory.mktemp('model') / 'tiny')))
    yield made
    made.close()


@pytest.fixture
def handler(engine):
    return type('Here', (Handler,), {'engine': engine, 'bodies': []})


@pytest.fixture
def client(handler):
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    made = InferClient(port=server.server_port, timeout=60)
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def texts(responses) -> list[str]:
    return [each.choices[0].message.content for each in responses]


def test_answers_come_in_the_order_of_the_requests(client, engine):
    requests = [asked(text) for text in QUESTIONS]
    found, wanted = client.infer(requests, EIGHT), engine.infer(requests, EIGHT)
    assert texts(found) == texts(wanted)
    assert [each.usage for each in found] == [each.usage for each in wanted]
    assert client.models == ['tiny']


def test_streams_join_to_the_whole_answer(client, engine):
    wanted = texts(engine.infer([asked(text) for text in QUESTIONS], EIGHT))
    streams = client.infer([asked(text) for text in QUESTIONS], RequestConfig(max_tokens=8, temperature=0, stream=True))
    found = [list(stream) for stream in streams]
    assert [''.join(chunk.choices[0].delta.content for chunk in chunks) for chunks in found] == wanted
    assert found[0][-1].choices[0].finish_reason in ('stop', 'length')


def test_event_loops_wait_without_standing_still(client, engine):
    async def both():
        whole = client.infer_async(asked(QUESTIONS[0]), EIGHT)
        pieces = await client.infer_async(asked(QUESTIONS[1]), RequestConfig(max_tokens=8, temperature=0, stream=True))
        streamed = ''.join([chunk.choices[0].delta.content async for chunk in pieces])
        return [(await whole).choices[0].message.content, streamed]

    assert asyncio.run(both()) == texts(engine.infer([asked(text) for text in QUESTIONS[:2]], EIGHT))


def test_what_is_as_it_is_by_itself_is_not_sent(client, handler):
    client.infer([asked('Hi')], EIGHT)
    assert handler.bodies[-1] == {
        'model': 'tiny', 'messages': [{'role': 'user', 'content': 'Hi'}], 'max_tokens': 8, 'temperature': 0
    }  # fmt: skip
    tools = [{'type': 'function', 'function': {'name': 'f'}}]
    made = infer_client.body(InferRequest([], tools=tools), RequestConfig(stream=True, seed=1), 'm')
    assert made['tools'] == tools
    assert made['stream_options'] == {'include_usage': True}


def test_a_request_that_is_refused_says_why(client):
    with pytest.raises(RequestError, match='no') as raised:
        client.infer([asked('Hi'), asked('fail')], EIGHT)
    assert raised.value.param == 'messages'


def test_a_server_with_several_models_has_to_be_told_which(client, handler):
    handler.models = ('a', 'b')
    with pytest.raises(ConfigError, match='a, b; name one'):
        client.infer([asked('Hi')], EIGHT)
    assert client.infer([asked('Hi')], EIGHT, model='a')


def test_metrics_see_every_response(client):
    seen = []
    client.infer(
        [asked(text) for text in QUESTIONS], EIGHT, [type('M', (), {'update': lambda _, each: seen.append(each)})()]
    )
    assert len(seen) == 3


def test_answers_of_other_servers_are_understood():
    call = {'id': 'c', 'type': 'function', 'index': 0, 'function': {'name': 'f', 'arguments': '{}'}}
    message = {'role': 'assistant', 'content': None, 'refusal': None, 'tool_calls': [call], 'reasoning': 'hm'}
    choice = {'index': 0, 'message': message, 'finish_reason': 'tool_calls', 'stop_reason': None}
    found = infer_client.whole({'model': 'm', 'choices': [choice], 'usage': {'prompt_tokens': 3, 'total_tokens': 3}})
    assert found.choices[0].message.tool_calls[0].function.name == 'f'
    assert found.choices[0].message.reasoning_content == 'hm'
    delta = {'tool_calls': [{'index': 0, 'function': {'arguments': '{'}}]}
    piece = infer_client.chunk({'model': 'm', 'choices': [{'index': 0, 'delta': delta}]})
    assert piece.choices[0].delta.tool_calls[0].function.arguments == '{'
    for nonsense in ({'error': 'x'}, [], {'choices': [{}], 'model': 'm'}):
        with pytest.raises(SwiftError, match='no chat completion'):
            infer_client.whole(nonsense)
