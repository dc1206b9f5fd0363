// What the settings ask for, as fields of a request. An empty field asks for nothing, so the server decides.

import { say } from './words.js';

const NUMBERS = ['temperature', 'top_p', 'max_tokens', 'seed'];
const TEXTS = ['system', 'tools'];

export class Settings {
  constructor(form) {
    this.form = form;
    for (const name of [...NUMBERS, ...TEXTS]) form.elements[name].value = sessionStorage.getItem(name) ?? '';
    form.addEventListener('input', ({ target }) => {
      sessionStorage.setItem(target.name, target.value);
      this.check();
    });
    form.addEventListener('submit', (event) => event.preventDefault());
  }

  get system() {
    return this.form.elements.system.value.trim();
  }

  /** Fields of a request. */
  get fields() {
    const given = NUMBERS.map((name) => [name, this.form.elements[name].value]).filter(([, text]) => text !== '');
    const tools = this.tools();
    return { ...Object.fromEntries(given.map(([name, text]) => [name, Number(text)])), ...(tools?.length ? { tools } : {}) };
  }

  /** Whether everything can be sent; shows what cannot. */
  valid() {
    this.check();
    if (this.form.checkValidity()) return true;
    this.form.hidden = false; // what is wrong in it must be seen
    return this.form.reportValidity();
  }

  check() {
    this.form.elements.tools.setCustomValidity(this.tools() === null ? say('tools_wrong') : '');
  }

  /** The tools; null where they are no list of them. */
  tools() {
    const text = this.form.elements.tools.value.trim();
    try {
      const tools = text ? JSON.parse(text) : [];
      return Array.isArray(tools) && tools.every((each) => each?.function?.name) ? tools : null;
    } catch {
      return null;
    }
  }
}
