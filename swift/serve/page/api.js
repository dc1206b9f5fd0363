// The server: models, and answers as they are made. Addresses are relative, so that a proxy may put a path before them.

const store = globalThis.sessionStorage;

/** What the server said instead of an answer. */
export class Refusal extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const key = {
  get: () => store.getItem('key') ?? '',
  set: (text) => store.setItem('key', text),
};

/** Names that `model` may have. */
export async function models() {
  const response = await ask('v1/models');
  return (await response.json()).data.map((each) => each.id);
}

/**
 * An answer as it is made: {content, reasoning_content, tool_calls} as they come, {finish}, {usage}.
 *
 * Aborting the signal closes the connection, which ends the request in the engine.
 */
export async function* chat(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask('v1/chat/completions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(asked),
    signal,
  });
  let finished = false;
  for await (const text of events(response.body.getReader())) {
    if (text === '[DONE]') return;
    const event = JSON.parse(text);
    if (event.error) throw new Refusal(event.error.message, 200, event.error.code);
    if (event.usage) yield { usage: event.usage };
    const choice = event.choices?.[0];
    if (!choice) continue;
    yield choice.delta ?? {};
    if (choice.finish_reason) {
      finished = true;
      yield { finish: choice.finish_reason };
    }
  }
  if (!finished) throw new Refusal('', 0, 'broken_off');
}

/** The data of server-sent events, however the bytes were cut. */
export async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) yield line.slice(6).trimEnd();
  }
}

async function ask(path, options = {}) {
  const authorization = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  const settings = { ...options, headers: { ...options.headers, ...authorization }, credentials: 'omit', cache: 'no-store' };
  const response = await fetch(path, settings);
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refusal(said.error?.message ?? `HTTP ${response.status}`, response.status, said.error?.code);
}
