"""swift app on a tiny model: the page, and the model behind it, at one address."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests import tiny

ROOT = Path(__file__).parents[2]
PATIENCE = 300


def test_the_page_and_its_model_answer_at_the_address_that_is_said(tmp_path):
    model = tiny.folder(tmp_path / 'tiny')
    words = ['--model', str(model), '--server_port', '0', '--lang', 'zh', '--studio_title', 'My page']
    process = subprocess.Popen(
        [sys.executable, '-m', 'swift.cli', 'app', *words],
        cwd=ROOT,
        env={**os.environ, 'SWIFT_CACHE': str(tmp_path / 'cache')},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = next(
            found[0] for line in process.stdout if (found := re.search(r'http://127\.0\.0\.1:\d+/$', line.strip()))
        )
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        assert '<title>My page</title>' in text and 'data-language="zh"' in text
        body = json.dumps({'messages': [{'role': 'user', 'content': 'Hi'}], 'max_tokens': 3}).encode()
        asked = urllib.request.Request(f'{url}v1/chat/completions', body, {'content-type': 'application/json'})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            assert json.load(answer)['usage']['completion_tokens'] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
