// The page: one message field for one or two conversations.

import { key, models } from './api.js';
import { Pane } from './pane.js';
import { Settings } from './settings.js';
import { WORDS, language, say, speak } from './words.js';

const part = (id) => document.getElementById(id);
const settings = new Settings(part('settings'));
const WIDE = 900; // pixels from which there is room for the settings
const panes = [];
let names = [];

// ----------------------------------------------------------------------------------------------------- conversations
function addPane() {
  const pane = new Pane(settings, askForKey, during);
  speak(language(), pane.root);
  pane.offer(names, names[panes.length]);
  pane.choice.addEventListener('change', show);
  panes.push(pane);
  part('panes').append(pane.root);
  return pane;
}

function compare() {
  if (panes.length === 1) addPane().follow(panes[0]);
  else {
    const [, second] = panes.splice(0, 2, panes[0]);
    second.stop();
    second.root.remove();
  }
  show();
}

async function send() {
  const field = part('message');
  const text = field.value.trim();
  if (!text || busy() || !names.length || !settings.valid()) return;
  field.value = '';
  await during(panes.map((pane) => pane.send(text)));
}

/** Show that answers are made until they are. */
async function during(answers) {
  show(say('answering'));
  await Promise.all(answers);
  const errors = panes.map((pane) => pane.turns.at(-1)?.error ?? '');
  show(errors.join(' ').trim() || say('answered'));
  part('message').focus();
}

const busy = () => panes.some((pane) => pane.busy);
const stop = () => panes.forEach((pane) => pane.stop());

/** Let the controls show how things are. */
function show(status = '') {
  const call = panes[0].calls[0];
  part('send').hidden = busy();
  part('stop').hidden = !busy();
  part('show-settings').setAttribute('aria-expanded', String(!part('settings').hidden));
  part('compare').setAttribute('aria-pressed', String(panes.length > 1));
  part('panes').classList.toggle('two', panes.length > 1);
  part('message').placeholder = call ? say('result_hint', { name: call.name }) : say('message_hint');
  part('status').textContent = status;
}

// --------------------------------------------------------------------------------------------------------- the server
async function load() {
  try {
    names = await models();
    panes.forEach((pane, i) => pane.offer(names, names[i]));
    show();
  } catch (error) {
    if (!askForKey(error)) show(error.status ? error.message : say('unreachable'));
  }
}

/** Ask for a key where the server does; says whether it did. */
function askForKey(error) {
  if (error.status !== 401) return false;
  part('key-wrong').hidden = !key.get();
  if (!part('key-dialog').open) part('key-dialog').showModal();
  return true;
}

function useKey(event) {
  event.preventDefault();
  key.set(part('key').value.trim());
  part('key').value = '';
  part('key-dialog').close();
  load();
}

// ----------------------------------------------------------------------------------------------------------- language
function use(name) {
  speak(name);
  sessionStorage.setItem('language', language());
  panes.forEach((pane) => pane.redraw());
  settings.check();
  show();
}

function preferred() {
  const wanted = sessionStorage.getItem('language') || document.documentElement.dataset.language || navigator.language;
  return wanted.startsWith('zh') ? 'zh' : 'en';
}

// ------------------------------------------------------------------------------------------------------------- events
const CLICKS = {
  stop,
  compare,
  clear: () => {
    panes.forEach((pane) => pane.clear());
    show();
    part('message').focus();
  },
  language: () => use(Object.keys(WORDS).find((each) => each !== language())),
  'show-settings': () => {
    part('settings').hidden = !part('settings').hidden;
    show();
  },
};
for (const [id, act] of Object.entries(CLICKS)) part(id).addEventListener('click', act);
part('key-form').addEventListener('submit', useKey);
part('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
part('message').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && busy()) stop();
});

part('settings').hidden = window.innerWidth < WIDE;
addPane();
use(preferred());
load();
part('message').focus();
