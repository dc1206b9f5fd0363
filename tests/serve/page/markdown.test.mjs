// The renderer of the chat page, without a browser: node --test tests/serve/page

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { address, element, parse } from '../../../swift/serve/page/markdown.js';

// What a model may write to run code in the page; the browser's test looks whether any of it ran.
const CORPUS = JSON.parse(readFileSync(new URL('corpus.json', import.meta.url), 'utf8'));
const TAGS = new Set(
  'h1 h2 h3 h4 h5 h6 p hr blockquote ul ol li pre code table thead tbody tr th td a br span strong em del'.split(' '),
);
const ATTRIBUTES = new Set(['href', 'title', 'target', 'rel', 'class', 'start', 'data-language']);

/** A tree as text, to compare. */
const shown = (node) =>
  typeof node === 'string' ? node : `<${node.tag}>${node.children.map(shown).join('')}</${node.tag}>`;
const render = (text) => parse(text).map(shown).join('');

function* nodes(tree) {
  for (const node of tree) {
    yield node;
    if (typeof node !== 'string') yield* nodes(node.children);
  }
}

const EXAMPLES = {
  '# A *b*': '<h1>A <em>b</em></h1>',
  'a **b** ***c*** ~~d~~': '<p>a <strong>b</strong> <strong><em>c</em></strong> <del>d</del></p>',
  '**“中文”**粗体': '<p><strong>“中文”</strong>粗体</p>',
  'a_b_c 2 * 3 * 4': '<p>a_b_c 2 * 3 * 4</p>',
  'a **b': '<p>a **b</p>',
  '`a *b* <c>`': '<p><code>a *b* <c></code></p>',
  '``a ` b``': '<p><code>a ` b</code></p>',
  '\\*a\\*': '<p>*a*</p>',
  'a\nb<br>c': '<p>a<br></br>b<br></br>c</p>',
  '&lt;b&gt;': '<p><b></p>',
  '\\(a_1 * b_2\\)': '<p><span>\\(a_1 * b_2\\)</span></p>',
  '```py\nx = "<b>"\n```\nafter': '<pre><code>x = "<b>"</code></pre><p>after</p>',
  '```\nopen': '<pre><code>open</code></pre>',
  '> a\n>> b': '<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>',
  '- a\n  - b\n- c': '<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>',
  '1. a\n\n   b\n2. c': '<ol><li>a<p>b</p></li><li>c</li></ol>',
  '|a|b|\n|-|-:|\n|1|2|': '<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>',
  '---': '<hr></hr>',
  '[a](https://b.c/d_(e))': '<p><a>a</a></p>',
  'see https://a.b/c.': '<p>see <a>https://a.b/c</a>.</p>',
};

for (const [text, expected] of Object.entries(EXAMPLES)) {
  test(`markdown is read: ${JSON.stringify(text)}`, () => assert.equal(render(text), expected));
}

test('whatever a model writes, only tags, attributes and addresses of ours come out', () => {
  for (const text of CORPUS) {
    for (const node of nodes(parse(text))) {
      if (typeof node === 'string') continue;
      assert.ok(TAGS.has(node.tag), `${node.tag} out of ${text}`);
      for (const [name, value] of Object.entries(node.attributes)) {
        assert.ok(ATTRIBUTES.has(name), `${name} out of ${text}`);
        if (name === 'href') assert.match(value, /^(https?|mailto):/, text);
      }
    }
  }
});

test('text becomes text nodes, never markup', () => {
  const texts = [];
  const fake = {
    createTextNode: (text) => texts.push(text) && { text },
    createElement: () => ({ setAttribute() {}, appendChild() {} }),
  };
  for (const node of parse('<img src=x onerror=alert(1)>')) element(node, fake);
  assert.equal(texts.join(''), '<img src=x onerror=alert(1)>');
});

test('an address is followed only where its scheme is harmless', () => {
  for (const bad of ['javascript:alert(1)', 'JaVaScRiPt:1', 'java\nscript:1', '\u0001javascript:1', 'data:text/html,x', 'vbscript:1', 'file:///etc', 'blob:x', '//a.b', 'a']) {
    assert.equal(address(bad), null, bad);
  }
  assert.equal(address('https://a.b/?c=<d>'), 'https://a.b/?c=%3Cd%3E');
});

test('a picture is a link: no text makes the browser send anything anywhere', () => {
  assert.equal(render('![a](https://b.c/?secret)'), '<p><a>a</a></p>');
});

const n = 30_000;
const HOSTILE = {
  stars: '*'.repeat(n), strong: '** a'.repeat(n), brackets: '['.repeat(n), links: '[a]('.repeat(n), quotes: '>'.repeat(n),
  ticks: Array.from({ length: 250 }, (_, i) => '`'.repeat(i)).join(' a '), items: '\n- '.repeat(n), maths: '\\('.repeat(n),
  rows: '|a|-\n'.repeat(n), nested: Array.from({ length: 1000 }, (_, i) => `${' '.repeat(i)}- x`).join('\n'),
  lines: '\n'.repeat(n) + 'x\n'.repeat(n), urls: 'http://'.repeat(n), rule: `${'- '.repeat(n)}x`, spaces: `${' '.repeat(n)}x`,
};

test('time grows with the length of a text, whatever it holds', () => {
  for (const [name, text] of Object.entries(HOSTILE)) {
    const before = process.cpuUsage().user;
    parse(text);
    assert.ok(process.cpuUsage().user - before < 2e6, name);
  }
});
