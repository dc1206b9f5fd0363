"""The chat page in a real browser. ``bash yichuidingyin.sh test --with browser`` has it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from swift.engines.fake import FakeEngine
from swift.serve import auth
from swift.serve.page import Page
from tests.serve.running import DEADLINE, house, running, until

sync_api = pytest.importorskip('playwright.sync_api')
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium')

CORPUS = json.loads((Path(__file__).parent / 'page' / 'corpus.json').read_text(encoding='utf-8'))
LONG = 'word ' * 700


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """opened(server, **of the context): the page, watched for errors and for anything that it loads from elsewhere."""
    contexts = []

    def open_(server, **more):
        context = browser.new_context(viewport={'width': 1200, 'height': 800}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DEADLINE * 1000)
        page.faults = []
        page.on('pageerror', lambda error: page.faults.append(str(error)))
        page.on('console', lambda said: page.faults.append(said.text) if said.type == 'error' else None)
        page.goto(f'http://127.0.0.1:{server.port}/')
        return page

    yield open_
    for context in contexts:
        context.close()


def served(tmp_path=None, *, step=0.0, names=(), keys=()):
    engine = FakeEngine(step_seconds=step)
    for name in names:
        engine.load_adapter(name, tmp_path)
    return running(house(engine, keys=keys), around=lambda app: Page(app, title='Test'))


def ask(page, text):
    until(lambda: page.locator('select option').count() > 0)
    page.get_by_label(re.compile('Message|消息')).fill(text)
    page.keyboard.press('Enter')


def said(page, characters):
    until(lambda: len(page.locator('.assistant .content').text_content()) > characters)


def answered(page):
    page.locator('#send').wait_for()
    return page.locator('.assistant .content')


def test_an_answer_streams_and_is_counted(opened):
    with served(step=0.02) as server:
        page = opened(server)
        ask(page, 'This **streams** for a while, as it should. ' * 3)
        said(page, 20)
        assert page.locator('#stop').is_visible()
        assert answered(page).locator('strong').count() == 3
        assert re.search(r'\d+ tokens, [\d.]+ tokens/s', page.locator('.assistant .stats').inner_text())
        assert page.get_by_role('status').inner_text() == 'The answer is there.'
        assert page.evaluate('document.activeElement.id') == 'message'
        assert not page.faults
        server.is_well()


@pytest.mark.parametrize('how', ['button', 'key'])
def test_stop_aborts_in_the_engine_and_keeps_what_was_said(opened, how):
    with served(step=0.02) as server:
        page = opened(server)
        ask(page, LONG)
        said(page, 3)
        page.locator('#stop').click() if how == 'button' else page.keyboard.press('Escape')
        page.locator('#send').wait_for()
        until(lambda: server.engine.stats()['aborted'] == 1)
        assert page.locator('.assistant .stats').inner_text() == 'stopped'
        assert 0 < len(page.locator('.assistant .content').inner_text()) < len(LONG) / 2
        ask(page, 'and on')
        until(lambda: page.locator('.assistant').count() == 2)
        assert answered(page).nth(1).inner_text() == 'and on'
        server.is_well()


def test_closing_the_tab_aborts_too(opened):
    with served(step=0.02) as server:
        page = opened(server)
        ask(page, LONG)
        said(page, 3)
        page.close()
        until(lambda: server.engine.stats()['aborted'] == 1)


def test_two_adapters_answer_side_by_side(opened, tmp_path):
    with served(tmp_path, names=('red', 'blue')) as server:
        page = opened(server)
        page.locator('#compare').click()
        selects = page.get_by_label('Model')
        assert selects.nth(0).locator('option').all_inner_texts() == ['fake', 'red', 'blue']
        selects.nth(0).select_option('blue')
        selects.nth(1).select_option('red')
        ask(page, 'hello')
        page.locator('#send').wait_for()
        assert [page.locator('.pane').nth(i).locator('.assistant .content').inner_text() for i in (0, 1)] == [
            'blue: hello', 'red: hello',
        ]  # fmt: skip
        assert page.locator('.pane').nth(1).locator('.who').all_inner_texts() == ['You', 'Answer of red']
        page.locator('#compare').click()
        assert page.locator('.pane').count() == 1


def test_settings_reach_the_engine(opened, monkeypatch):
    with served() as server:
        asked = []
        begin = server.engine.begin
        monkeypatch.setattr(
            server.engine, 'begin', lambda request, deliver: (asked.append(request), begin(request, deliver))
        )
        page = opened(server)
        page.get_by_label('System prompt').fill('Be brief.')
        page.get_by_label('Temperature').fill('0.25')
        page.get_by_label('top_p').fill('0.5')
        page.get_by_label('Most tokens').fill('5')
        page.get_by_label('Seed').fill('7')
        ask(page, 'a long message')
        assert answered(page).inner_text() == 'a lon'
        sampling = asked[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.seed) == (0.25, 0.5, 5, 7)
        assert 'cut off' in page.locator('.assistant .stats').inner_text()
        page.get_by_label('Temperature').fill('3')
        ask(page, 'again')
        assert page.locator('.turn').count() == 2


def test_again_asks_the_same_and_clear_forgets(opened):
    with served() as server:
        page = opened(server)
        ask(page, 'once more')
        assert answered(page).inner_text() == 'once more'
        page.get_by_role('button', name='Again').click()
        until(lambda: server.engine.stats()['finished'] == 2)
        assert answered(page).all_inner_texts() == ['once more']
        page.get_by_role('button', name='Clear').click()
        assert page.locator('.turn').count() == 0


def test_nothing_that_a_model_writes_runs(opened):
    with served() as server:
        page = opened(server)
        elsewhere = []
        page.on('request', lambda request: None if f':{server.port}/' in request.url else elsewhere.append(request.url))
        for i, text in enumerate(CORPUS):
            ask(page, text)
            until(lambda i=i: page.locator('.assistant').count() == i + 1)
            page.locator('#send').wait_for()
        for link in page.locator('.assistant a').all():
            assert re.match('https?:', link.get_attribute('href'))
        page.wait_for_timeout(300)
        assert page.evaluate('window.ran') is None
        assert (
            page.locator(
                '.log :is(script, img, svg, iframe, input, form, style, base, math, details:not(.reasoning))'
            ).count()
            == 0
        )
        assert not elsewhere and not page.faults


def test_what_runs_anyway_is_stopped_by_the_policy(opened):
    with served() as server:
        page = opened(server)
        with pytest.raises(sync_api.Error, match='TrustedHTML'):
            page.evaluate('document.body.innerHTML = "<img src=x onerror=window.ran=1>"')
        page.evaluate("document.body.append(Object.assign(document.createElement('img'), {src: 'https://x.invalid/'}))")
        until(lambda: any('Content Security Policy' in fault for fault in page.faults))


def test_names_of_models_and_errors_are_text(opened, tmp_path):
    evil = '<img src=x onerror=window.ran=1>'
    with served(tmp_path, names=(evil,)) as server:
        page = opened(server)
        page.get_by_label('Model').select_option(evil)
        server.engine.unload_adapter(evil)
        ask(page, 'hello')
        page.locator('#send').wait_for()
        until(lambda: evil in page.locator('.assistant .error').inner_text())
        assert page.evaluate('window.ran') is None and page.locator('.log img').count() == 0


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_tab(opened):
    with served(keys=[auth.key('secret')]) as server:
        page = opened(server)
        dialog = page.get_by_role('dialog', name='This server asks for a key')
        dialog.wait_for()
        for text in ('wrong', 'secret'):
            page.get_by_label('API key').fill(text)
            page.keyboard.press('Enter')
            if text == 'wrong':
                page.get_by_text('The server refused this key.').wait_for()
        dialog.wait_for(state='hidden')
        ask(page, 'hello')
        assert answered(page).inner_text() == 'hello'
        page.reload()
        ask(page, 'still there')
        assert answered(page).inner_text() == 'still there'
        assert page.evaluate('localStorage.length') == 0


def test_reasoning_and_calls_are_shown(opened):
    deltas = [
        {'reasoning_content': 'let me <think>'},
        {
            'tool_calls': [
                {'index': 0, 'id': 'c1', 'type': 'function', 'function': {'name': 'weather', 'arguments': ''}}
            ]
        },
        {'tool_calls': [{'index': 0, 'function': {'arguments': '{"city": "<b>"}'}}]},
    ]
    chunks = [{'choices': [{'index': 0, 'delta': delta, 'finish_reason': None}]} for delta in deltas]
    chunks.append({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'tool_calls'}]})
    body = ''.join(f'data: {json.dumps(chunk)}\n\n' for chunk in chunks) + 'data: [DONE]\n\n'
    with served() as server:
        page = opened(server)
        asked = []

        def answer(route):
            asked.append(route.request.post_data_json)
            route.fulfill(body=body, content_type='text/event-stream')

        page.route('**/v1/chat/completions', answer)
        page.get_by_label('Tools').fill('[{"type": "function", "function": {"name": "weather"}}]')
        ask(page, 'how is it?')
        page.get_by_text('Call of weather').wait_for()
        assert page.locator('.call code').inner_text() == '{"city": "<b>"}'
        assert not page.locator('.assistant .thoughts').is_visible()
        page.locator('.assistant summary').click()
        assert page.locator('.assistant .thoughts').inner_text() == 'let me <think>'
        assert page.get_by_label('Message').get_attribute('placeholder') == 'The result of weather'
        ask(page, 'sunny')
        until(lambda: len(asked) == 2)
        assert asked[0]['tools'][0]['function']['name'] == 'weather'
        assert asked[1]['messages'][1]['tool_calls'][0]['id'] == 'c1'
        assert asked[1]['messages'][2] == {'role': 'tool', 'content': 'sunny', 'tool_call_id': 'c1'}


def test_the_page_speaks_the_language_of_the_browser_and_the_other(opened):
    with served() as server:
        page = opened(server, locale='zh-CN')
        assert page.evaluate('document.documentElement.lang') == 'zh-CN'
        ask(page, '你好，世界')
        assert answered(page).inner_text() == '你好，世界'
        assert page.locator('.who').all_inner_texts() == ['你', 'fake 的回答']
        page.get_by_role('button', name='English').click()
        assert page.locator('.who').all_inner_texts() == ['You', 'Answer of fake']
        assert '词元' not in page.locator('body').inner_text()


def test_everything_has_a_name_and_can_be_reached_by_the_keyboard(opened):
    with served() as server:
        page = opened(server)
        ask(page, 'hello')
        answered(page)
        for control in page.locator('button:visible, input:visible, textarea:visible, select:visible').all():
            assert control.evaluate('each => each.labels?.[0]?.innerText || each.ariaLabel || each.innerText')
        reached = set()
        for _ in range(30):
            page.keyboard.press('Tab')
            reached.add(
                page.evaluate(
                    'document.activeElement.id || document.activeElement.className || document.activeElement.name'
                )
            )
        assert {
            'show-settings',
            'compare',
            'clear',
            'language',
            'system',
            'seed',
            'message',
            'send',
            'copy',
            'again',
        } <= reached


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_words_can_be_read_on_their_ground(opened, scheme):
    with served() as server:
        page = opened(server, color_scheme=scheme)
        ask(page, 'hello `code`')
        answered(page)
        for name in (
            '.assistant .content',
            '.user .content',
            '.who',
            '.stats',
            '#send',
            '#compare',
            '.content code',
            '.note',
        ):
            ink, ground = page.evaluate(COLOURS, name)
            assert contrast(ink, ground) >= 4.5, (name, ink, ground)


COLOURS = """(name) => {
  const first = document.querySelector(name);
  let ground = first;
  while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  return [getComputedStyle(first).color, getComputedStyle(ground).backgroundColor];
}"""


def contrast(one: str, other: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        channels = [int(each) / 255 for each in re.findall(r'\d+', colour)[:3]]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
