"""The chat page: its files and headers; its renderer in node, where there is one. ``test_browser.py`` drives it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swift.serve import page
from swift.serve.page import FOLDER, Page
from tests.serve.running import running

SCRIPTS = sorted(FOLDER.glob('*.js'))
SINKS = re.compile(
    r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment|'
    r'\.srcdoc|setHTML|https?://[a-z0-9]'
)


@pytest.fixture(scope='module')
def served():
    with running(around=lambda app: Page(app, title='A <b>"title"</b>', language='zh')) as server:
        yield server


def test_the_page_and_its_files_are_served_without_a_key(served):
    for path in ('/', '/app/main.js', '/app/style.css', '/app/icon.svg'):
        status, text, headers = served.get(path)
        assert status == 200 and text
        assert headers['content-security-policy'].startswith("default-src 'none'; script-src 'self'")
        assert headers['x-content-type-options'] == 'nosniff'
        again = served.get(path, headers={'if-none-match': headers['etag']})
        assert again[:2] == (304, '')


def test_title_and_language_cannot_be_markup(served):
    text = served.get('/')[1]
    assert '<title>A &lt;b&gt;&quot;title&quot;&lt;/b&gt;</title>' in text
    assert 'data-language="zh"' in text


def test_everything_else_is_the_servers(served):
    assert served.get('/app/index.html')[0] == 404
    assert served.get('/app/..%2fpage.py')[0] == 404
    assert served.post('/', {})[0] == 404
    assert served.get('/v1/models')[1]['data'][0]['id'] == 'fake'
    served.is_well()


def test_no_script_reads_text_as_code_or_markup_or_loads_anything_from_elsewhere():
    assert len(SCRIPTS) == 6
    for path in (*SCRIPTS, FOLDER / 'index.html', FOLDER / 'style.css'):
        found = SINKS.findall(path.read_text(encoding='utf-8'))
        assert not found, f'{path.name}: {found}'


def test_the_page_has_no_code_and_no_style_inside_it():
    text = (FOLDER / 'index.html').read_text(encoding='utf-8')
    assert re.findall(r'<script\b[^>]*>', text) == ['<script type="module" src="app/main.js">']
    assert not re.search(r'<style|\son\w+=|\sstyle=', text)


def test_everything_that_scripts_and_page_name_is_there():
    text = (FOLDER / 'index.html').read_text(encoding='utf-8')
    code = ''.join(path.read_text(encoding='utf-8') for path in SCRIPTS)
    ids = set(re.findall(r'\bid="([\w-]+)"', text))
    assert set(re.findall(r"(?:\bpart|copyOf)\('([\w-]+)'\)", code)) <= ids | set(re.findall(r'class="([\w-]+)"', text))
    words = set(re.findall(r'^ {4}(\w+):', (FOLDER / 'words.js').read_text(encoding='utf-8'), re.MULTILINE))
    assert set(re.findall(r'data-(?:say|label|hint)="(\w+)"', text)) <= words
    assert set(re.findall(r"\bsay\('(\w+)'", code)) <= words


def test_the_policy_lets_nothing_but_own_files_in():
    assert page.POLICY['default-src'] == "'none'"
    assert {*page.POLICY.values()} <= {"'none'", "'self'", "'script'"}


@pytest.mark.skipif(shutil.which('node') is None, reason='node runs the tests of the renderer')
def test_the_renderer_and_the_reader_of_events_pass_their_own_tests():
    folder = Path(__file__).parent / 'page'
    tests = sorted(folder.glob('*.test.mjs'))
    done = subprocess.run(['node', '--test', *tests], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
