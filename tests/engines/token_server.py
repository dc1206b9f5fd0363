"""A real HTTP server over the native engine that speaks as vLLM, SGLang and LMDeploy do, and fails on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from swift.core.types import Grammar, Piece, Request, Sampling
from swift.engines.native.engine import NativeEngine

KEY = 'secret'
COMMON = ('n', 'temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty', 'presence_penalty', 'frequency_penalty')


class Server:
    """Runs while the block does. ``faults`` are answers given before the real one: (status, headers, JSON)."""

    def __init__(self, engine: NativeEngine):
        self.engine = engine
        self.faults: list[tuple[int, dict[str, str], object]] = []
        self.asked: list[tuple[str, dict]] = []
        self.adapters: dict[str, str] = {}
        self.cut_after: int | None = None  # events
        self.pause = 0.0  # seconds before each event
        self.left = threading.Event()  # a client hung up
        made = type('Handler', (Handler,), {'owner': self})
        self.http = ThreadingHTTPServer(('127.0.0.1', 0), made)
        self.http.daemon_threads = True
        self.url = f'http://127.0.0.1:{self.http.server_port}'

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: Server
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(200, {'status': 'ok'})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.owner.asked.append((self.path, body))
        if self.headers.get('Authorization') != f'Bearer {KEY}':
            return self.answer(401, {'error': {'message': 'wrong key'}})
        if self.owner.faults:
            status, headers, said = self.owner.faults.pop(0)
            return self.answer(status, said, headers)
        if self.path.endswith('load_lora_adapter'):
            return self.adapter(body)
        speak = VLLM if self.path == '/v1/completions' else LMDEPLOY if 'max_tokens' in body else SGLANG
        request = speak.request(body)
        with contextlib.closing(self.owner.engine.stream(request)) as pieces:
            if not body['stream']:
                return self.answer(200, speak.whole(list(pieces)))
            self.stream(speak.event(piece) for piece in pieces)

    def adapter(self, body: dict) -> None:
        name, path = body['lora_name'], body.get('lora_path')
        if 'unload' in self.path:
            del self.owner.adapters[name]
        elif path == '/nowhere':
            return self.answer(404, {'error': {'message': 'no such folder', 'param': 'lora_path'}})
        else:
            self.owner.adapters[name] = path
        return self.answer(200, {})

    def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {'Content-Length': str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def stream(self, events: Iterator[dict]) -> None:
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.send_header('Connection', 'close')
        self.end_headers()
        try:
            for number, event in enumerate(events):
                time.sleep(self.owner.pause)
                if self.owner.cut_after == number:
                    return
                self.wfile.write(f'data: {json.dumps(event)}\r\n\r\n'.encode())
            self.wfile.write(b': a comment\n\ndata: [DONE]\n\n')
        except OSError:
            self.owner.left.set()
        finally:
            self.close_connection = True


def biases(body: dict) -> tuple[tuple[int, float], ...]:
    return tuple((int(id), value) for id, value in body.get('logit_bias', {}).items())


class VLLM:
    @staticmethod
    def request(body: dict) -> Request:
        more = body.get('structured_outputs')
        grammar = Grammar('json', more['json']) if more else None
        sampling = Sampling(
            max_tokens=body['max_tokens'], stop=tuple(body['stop']), stop_ids=tuple(body['stop_token_ids']),
            seed=body.get('seed'), logprobs=body.get('logprobs'), prompt_logprobs=body.get('prompt_logprobs'),
            grammar=grammar, min_tokens=body.get('min_tokens', 0), logit_bias=biases(body),
            **{name: body[name] for name in COMMON},
        )  # fmt: skip
        return Request(body['request_id'], tuple(body['prompt']), sampling)

    @staticmethod
    def choice(piece: Piece) -> dict:
        logprobs = None
        if piece.logprobs:
            logprobs = {
                'token_logprobs': [each.logprob for each in piece.logprobs],
                'top_logprobs': [
                    {f'token_id:{id}': p for id, p in (*each.top, (each.id, each.logprob))} for each in piece.logprobs
                ],
            }
        made = {'index': piece.index, 'token_ids': list(piece.ids), 'logprobs': logprobs, 'finish_reason': piece.finish}
        if piece.prompt_logprobs:
            rows = [{str(id): {'logprob': p} for id, p in (*e.top, (e.id, e.logprob))} for e in piece.prompt_logprobs]
            made['prompt_logprobs'] = [None, *rows]
        return made

    @classmethod
    def event(cls, piece: Piece) -> dict:
        return {'choices': [cls.choice(piece)]}

    @classmethod
    def whole(cls, pieces: list[Piece]) -> dict:
        first = pieces[0]
        joined = Piece(
            0, '', tuple(id for each in pieces for id in each.ids), tuple(p for each in pieces for p in each.logprobs),
            pieces[-1].finish, first.prompt_logprobs,
        )  # fmt: skip
        return cls.event(joined)


class SGLANG:
    """Events hold all tokens up to now."""

    held: ClassVar[dict] = {}

    @classmethod
    def request(cls, body: dict) -> Request:
        cls.held = {}
        how = body['sampling_params']
        top = body.get('top_logprobs_num') if body.get('return_logprob') else None
        values = {name: how[name] for name in COMMON} | {'top_k': max(0, how['top_k'])}
        sampling = Sampling(
            max_tokens=how['max_new_tokens'], stop=tuple(how['stop']), stop_ids=tuple(how['stop_token_ids']),
            seed=how.get('sampling_seed'), logprobs=top, min_tokens=how.get('min_new_tokens', 0),
            logit_bias=biases(how), **values,
        )  # fmt: skip
        return Request(body['rid'], tuple(body['input_ids']), sampling)

    @classmethod
    def event(cls, piece: Piece) -> dict:
        ids, chosen, top = cls.held.setdefault(piece.index, ([], [], []))
        ids += piece.ids
        chosen += [[each.logprob, each.id, None] for each in piece.logprobs]
        top += [[[p, id, None] for id, p in each.top] for each in piece.logprobs]
        facts = {'completion_tokens': len(ids), 'finish_reason': {'type': piece.finish} if piece.finish else None}
        facts |= {'output_token_logprobs': chosen, 'output_top_logprobs': top}
        return {'index': piece.index, 'output_ids': ids, 'meta_info': facts}


class LMDEPLOY:
    @staticmethod
    def request(body: dict) -> Request:
        values = {name: body[name] for name in ('temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty')}
        sampling = Sampling(
            max_tokens=body['max_tokens'], stop=tuple(body['stop'] or ()), stop_ids=tuple(body['stop_token_ids']),
            logprobs=0 if body['return_logprob'] else None, **values,
        )  # fmt: skip
        return Request(f'l{id(body)}', tuple(body['input_ids']), sampling)

    @staticmethod
    def event(piece: Piece) -> dict:
        facts = {'finish_reason': {'type': piece.finish} if piece.finish else None}
        facts['output_token_logprobs'] = [[each.logprob, each.id] for each in piece.logprobs] or None
        return {'text': '', 'output_ids': list(piece.ids), 'meta_info': facts}
