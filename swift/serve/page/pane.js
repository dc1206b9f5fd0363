// One conversation with one model. `turns` are its truth; each is shown by an element of its own.
//
//   turn: {role: user | assistant | tool, content, reasoning, calls, name, id, model, error, stats, failed}

import { chat } from './api.js';
import { update } from './markdown.js';
import { WORDS, language, say, speak } from './words.js';

const NEAR = 60; // pixels from the end within which a conversation follows its answer

export class Pane {
  /**
   * @param settings what requests ask for
   * @param refused is told every error: some, such as a missing key, concern more than one answer
   * @param during is given the promise of an answer that was asked for in here
   */
  constructor(settings, refused, during) {
    this.settings = settings;
    this.refused = refused;
    this.during = during;
    this.root = copyOf('pane-template');
    this.log = this.root.querySelector('.log');
    this.choice = this.root.querySelector('select');
    this.turns = [];
    this.shown = new WeakMap(); // turns -> elements
    this.stopper = null;
  }

  get busy() {
    return this.stopper !== null;
  }

  get model() {
    return this.choice.value;
  }

  /** Offer models; the one that was chosen stays. */
  offer(names, preferred) {
    const chosen = this.model || preferred;
    this.choice.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) this.choice.value = chosen;
  }

  /** Calls of the last answer that nobody has answered yet. */
  get calls() {
    const at = this.turns.findLastIndex((turn) => turn.role === 'assistant');
    return at < 0 ? [] : this.turns[at].calls.slice(this.turns.length - 1 - at);
  }

  /** Say something, or what a call came back with; then answer. */
  async send(text) {
    const [call, ...more] = this.calls;
    this.add(call ? { role: 'tool', content: text, name: call.name, id: call.id } : { role: 'user', content: text });
    if (!more.length) await this.answer();
  }

  /** Another answer to the same question. */
  async regenerate() {
    if (this.busy) return;
    const last = this.turns.findLastIndex((turn) => turn.role === 'assistant');
    for (const turn of this.turns.splice(last)) this.shown.get(turn).remove();
    await this.answer();
  }

  stop() {
    this.stopper?.abort();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.log.replaceChildren();
  }

  /** Go on from where another conversation is. */
  follow(other) {
    this.clear();
    for (const turn of other.turns) if (turn.stats || turn.role !== 'assistant') this.add({ ...turn });
  }

  // ------------------------------------------------------------------------------------------------------- answering
  async answer() {
    const turn = { role: 'assistant', content: '', reasoning: '', calls: [], model: this.model };
    const asked = { model: this.model, messages: this.messages(), ...this.settings.fields };
    const stopper = new AbortController();
    this.stopper = stopper;
    this.add(turn);
    this.log.setAttribute('aria-busy', 'true');
    try {
      turn.stats = await this.stream(turn, asked, stopper.signal);
    } catch (error) {
      if (stopper.signal.aborted) turn.stats = { finish: 'stopped' };
      else {
        turn.error = error.message && error.status !== undefined ? error.message : say(error.code ?? 'unreachable');
        this.refused(error);
      }
    } finally {
      this.stopper = null;
      this.log.setAttribute('aria-busy', 'false');
      this.draw(turn);
    }
  }

  /** Add an answer to its turn as it comes; returns how it went. */
  async stream(turn, asked, signal) {
    const began = performance.now();
    const stats = { finish: 'stop', pieces: 0 };
    for await (const delta of chat(asked, signal)) {
      if (delta.usage) stats.tokens = delta.usage.completion_tokens;
      else if (delta.finish) stats.finish = delta.finish;
      else if (take(turn, delta)) {
        stats.first ??= (performance.now() - began) / 1000;
        stats.seconds = (performance.now() - began) / 1000 - stats.first;
        this.drawSoon(turn);
      }
    }
    return stats;
  }

  /** The conversation as the server reads it. What could not be answered is left out. */
  messages() {
    const { system } = this.settings;
    const said = this.turns.filter((turn, i) => !failed(turn) && !(turn.role === 'user' && failed(this.turns[i + 1])));
    return [...(system ? [{ role: 'system', content: system }] : []), ...said.map(message)];
  }

  // --------------------------------------------------------------------------------------------------------- showing
  add(turn) {
    const element = copyOf('turn-template');
    element.classList.add(turn.role);
    this.turns.push(turn);
    this.shown.set(turn, element);
    element.querySelector('.copy').addEventListener('click', (event) => copy(turn.content, event.currentTarget));
    element.querySelector('.again').addEventListener('click', () => this.during([this.regenerate()]));
    this.draw(turn);
    this.log.append(element);
    this.log.scrollTop = this.log.scrollHeight;
  }

  drawSoon(turn) {
    if (turn.waits) return;
    turn.waits = requestAnimationFrame(() => {
      turn.waits = null;
      this.draw(turn);
    });
  }

  /** Let a turn's element show it. Nothing in here is read as HTML. */
  draw(turn) {
    const element = this.shown.get(turn);
    const part = (name) => element.querySelector(`.${name}`);
    const follows = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR;
    part('who').dataset.say = turn.role;
    Object.assign(part('who').dataset, { model: turn.model ?? '', name: turn.name ?? '' });
    if (turn.role === 'assistant') update(part('content'), turn.content, document);
    else part('content').textContent = turn.content;
    part('reasoning').hidden = !turn.reasoning;
    part('thoughts').textContent = turn.reasoning ?? '';
    part('calls').replaceChildren(...(turn.calls ?? []).map(shownCall));
    part('error').textContent = turn.error ?? '';
    part('stats').textContent = turn.stats ? summary(turn.stats) : '';
    part('again').hidden = turn.role !== 'assistant';
    speak(language(), element);
    if (follows) this.log.scrollTop = this.log.scrollHeight;
  }

  /** Show everything again, after the language changed. */
  redraw() {
    for (const turn of this.turns) this.draw(turn);
  }
}

// ------------------------------------------------------------------------------------------------------------- parts
const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

const failed = (turn) => turn?.role === 'assistant' && Boolean(turn.error) && !turn.content && !turn.calls.length;

/** Add what is new to a turn; says whether there was anything. */
function take(turn, delta) {
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? ''; // servers differ
  turn.content += delta.content ?? '';
  turn.reasoning += reasoning;
  for (const call of delta.tool_calls ?? []) {
    const known = (turn.calls[call.index ?? 0] ??= { id: '', name: '', arguments: '' });
    known.id ||= call.id ?? '';
    known.name ||= call.function?.name ?? '';
    known.arguments += call.function?.arguments ?? '';
  }
  return Boolean(delta.content || reasoning || delta.tool_calls?.length);
}

/** A turn as the server reads it. */
function message({ role, content, calls, id }) {
  if (role === 'tool') return { role, content, tool_call_id: id };
  if (role === 'user' || !calls.length) return { role, content };
  const tool_calls = calls.map((call) => ({
    id: call.id,
    type: 'function',
    function: { name: call.name, arguments: call.arguments },
  }));
  return { role, content: content || null, tool_calls };
}

function shownCall(call) {
  const element = copyOf('call-template');
  element.querySelector('.name').dataset.name = call.name;
  element.querySelector('code').textContent = call.arguments;
  return element;
}

function summary(stats) {
  const { tokens, seconds, first, finish } = stats;
  const rate = tokens > 1 && seconds > 0 ? ((tokens - 1) / seconds).toFixed(1) : '–';
  const speed = tokens ? say('speed', { tokens, rate, first: (first ?? 0).toFixed(2) }) : '';
  const ended = `ended_${finish}`;
  return [speed, ended in WORDS.en ? say(ended) : finish].filter(Boolean).join(' · ');
}

async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyWithoutClipboard(text);
  button.textContent = say('copied');
  setTimeout(() => (button.textContent = say('copy')), 1500);
}

/** Browsers have a clipboard only for pages of this machine and of https. */
function copyWithoutClipboard(text) {
  const field = document.createElement('textarea');
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}
