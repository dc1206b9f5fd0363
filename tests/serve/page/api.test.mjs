// Events and words of the chat page, without a browser.

import assert from 'node:assert/strict';
import { test } from 'node:test';

globalThis.sessionStorage = { getItem: () => null, setItem() {} };
const { Refusal, chat, events } = await import('../../../swift/serve/page/api.js');
const { WORDS } = await import('../../../swift/serve/page/words.js');

/** A reader of bytes that come in pieces of `size`. */
function reader(text, size) {
  const bytes = new TextEncoder().encode(text);
  let at = 0;
  return {
    async read() {
      const value = bytes.slice(at, (at += size));
      return { value, done: value.length === 0 };
    },
  };
}

async function all(stream) {
  const found = [];
  for await (const each of stream) found.push(each);
  return found;
}

/** What `chat` gives when the server answers with `text`. */
function answered(text, { status = 200, size = 5 } = {}) {
  globalThis.fetch = async () => ({
    ok: status < 400,
    status,
    json: async () => JSON.parse(text),
    body: { getReader: () => reader(text, size) },
  });
  return all(chat({ model: 'm', messages: [] }, null));
}

const event = (value) => `data: ${JSON.stringify(value)}\n\n`;
const chunk = (delta, finish_reason = null) => event({ choices: [{ index: 0, delta, finish_reason }] });

test('events are read however the bytes were cut', async () => {
  const text = 'data: {"a":"你好 🌍"}\n\n: a comment\n\ndata: [DONE]\r\n\r\n';
  for (let size = 1; size < 40; size += 1) {
    assert.deepEqual(await all(events(reader(text, size))), ['{"a":"你好 🌍"}', '[DONE]']);
  }
});

test('an answer is its deltas, its end and its usage', async () => {
  const text = chunk({ content: 'a' }) + chunk({}, 'stop') + event({ choices: [], usage: { completion_tokens: 2 } });
  const said = await answered(`${text}data: [DONE]\n\n`);
  assert.deepEqual(said, [{ content: 'a' }, {}, { finish: 'stop' }, { usage: { completion_tokens: 2 } }]);
});

test('refusals keep what the server said', async () => {
  const error = { error: { message: 'no <b>', code: 'queue_full' } };
  const is = (status) => (said) => said instanceof Refusal && said.message === 'no <b>' && said.status === status;
  await assert.rejects(answered(JSON.stringify(error), { status: 429 }), is(429));
  await assert.rejects(answered(chunk({ content: 'a' }) + event(error)), is(200));
});

test('a connection that breaks off is not taken for an end', async () => {
  await assert.rejects(answered(chunk({ content: 'a' })), (error) => error.code === 'broken_off');
});

test('both languages say the same things', () => {
  assert.deepEqual(Object.keys(WORDS.zh), Object.keys(WORDS.en));
  const places = (text) => text.match(/\{\w+\}/g)?.sort() ?? [];
  for (const name of Object.keys(WORDS.en)) {
    if (name !== 'tools_wrong') assert.deepEqual(places(WORDS.zh[name]), places(WORDS.en[name]), name);
  }
});
