"""Both hubs' protocols on a local port, from a dictionary of files: as much of them as their clients use to download.

with FakeHub({'acme/tiny': {'config.json': b'{}'}}) as hub: ...    # hub.url, hub.log, hub.gated, hub.cut, ...
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1000  # bytes from which a file counts as large (LFS): listed with its SHA-256
DEFAULT_BRANCHES = ('main', 'master')


class FakeHub(ThreadingHTTPServer):
    """``branches`` maps more revision names to other files; the other attributes are faults to switch on."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.repositories = repositories
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, int] = {}  # path -> bytes sent before the connection breaks, once
        self.swapped: dict[str, bytes] = {}  # path -> bytes sent instead of those listed
        self.pace = 0.0  # seconds between pieces of 1 KiB
        self.log: list[tuple[str, str, str]] = []  # (method, path, Range header)
        self.url = f'http://127.0.0.1:{self.server_port}'

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what the tests are about, not news."""

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        """The files of a repository at a branch or commit; None if there is no such thing."""
        known = {branch: self.repositories.get(name) for branch in DEFAULT_BRANCHES}
        known |= {branch: files for (repository, branch), files in self.branches.items() if repository == name}
        by_commit = {commit_of(files): files for files in known.values() if files is not None}
        return by_commit.get(revision) or known.get(revision)


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = 'HTTP/1.1'

    ROUTES = (
        (r'/api/(?:models|datasets)/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?', 'hf_info'),
        (r'/api/(?:models|datasets)/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)', 'hf_tree'),
        (r'(?:/datasets)?/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)', 'hf_file'),
        (r'/api/v1/(?:models|datasets)/(?P<name>[^/]+/[^/]+)/repo/(?:files|tree)', 'ms_tree'),
        (r'/api/v1/(?:models|datasets)/(?P<name>[^/]+/[^/]+)/repo', 'ms_file'),
    )

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.server.log.append((self.command, self.path, self.headers.get('Range', '')))
        for pattern, answer in self.ROUTES:
            if found := re.fullmatch(pattern, path):
                return self.route(answer, **found.groupdict())
        self.refuse(404)

    do_HEAD = do_GET

    def route(self, answer: str, name: str, revision: str | None = None, **rest: str) -> None:
        revision = revision or self.query.get('Revision') or 'main'
        if name in self.server.gated and 'Bearer good' not in self.headers.get('Authorization', ''):
            return self.refuse(401, 'GatedRepo')
        if name not in self.server.repositories:
            return self.refuse(404, 'RepoNotFound')
        files = self.server.files(name, revision)
        if files is None:
            return self.refuse(404, 'RevisionNotFound')
        getattr(self, answer)(files, **rest)

    # ---------------------------------------------------------------------------------------------- Hugging Face
    def hf_info(self, files: dict[str, bytes]) -> None:
        siblings = [{'rfilename': path} for path in files]
        self.answer_json({'id': 'acme/tiny', 'sha': commit_of(files), 'siblings': siblings})

    def hf_tree(self, files: dict[str, bytes]) -> None:
        entries = [
            {'type': 'file', 'path': path, 'size': len(data), 'oid': git_id(data)} for path, data in files.items()
        ]
        for entry in entries:
            if entry['size'] >= LARGE:
                entry['lfs'] = {'oid': sha256(files[entry['path']]), 'size': entry['size'], 'pointerSize': 128}
        self.answer_json(entries)

    def hf_file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            return self.refuse(404, 'EntryNotFound')
        data = files[path]
        etag = sha256(data) if len(data) >= LARGE else git_id(data)
        self.answer_file(path, data, {'ETag': f'"{etag}"', 'X-Repo-Commit': commit_of(files)})

    # ------------------------------------------------------------------------------------------------ ModelScope
    def ms_tree(self, files: dict[str, bytes]) -> None:
        rows = [
            {'Path': path, 'Type': 'blob', 'Size': len(data), 'Sha256': sha256(data)} for path, data in files.items()
        ]
        self.answer_json({'Code': 200, 'Data': {'Files': rows, 'TotalCount': len(rows)}})

    def ms_file(self, files: dict[str, bytes]) -> None:
        path = self.query['FilePath']
        self.answer_file(path, files[path], {}) if path in files else self.refuse(404)

    # --------------------------------------------------------------------------------------------------- answers
    def answer_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == 'GET' else b'')

    def answer_file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        data = self.server.swapped.get(path, data)
        found = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        start = int(found[1]) if found else 0
        end = int(found[2]) + 1 if found and found[2] else len(data)
        self.send_response(206 if found else 200)
        if found:
            self.send_header('Content-Range', f'bytes {start}-{end - 1}/{len(data)}')
        for key, value in {**headers, 'Content-Length': str(end - start), 'Accept-Ranges': 'bytes'}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == 'GET':
            self.send_slowly(path, data[start:end])

    def send_slowly(self, path: str, body: bytes) -> None:
        limit = self.server.cut.pop(path, None)
        if limit is not None:
            body = body[:limit]
            self.close_connection = True
        for start in range(0, len(body), 1024):
            self.wfile.write(body[start : start + 1024])
            self.wfile.flush()
            time.sleep(self.server.pace)
        if limit is not None:
            self.connection.shutdown(2)

    def refuse(self, status: int, code: str = '') -> None:
        body = json.dumps({'Code': 10010205000 + status, 'Message': 'refused', 'error': 'refused'}).encode()
        self.send_response(status)
        if code:
            self.send_header('X-Error-Code', code)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == 'GET' else b'')

    def log_message(self, *_: object) -> None:
        """Quiet."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    """A commit id that depends on the files."""
    text = json.dumps({path: sha256(data) for path, data in sorted(files.items())})
    return hashlib.sha1(text.encode()).hexdigest()
