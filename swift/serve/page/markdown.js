// Markdown as models write it: text -> tree of plain values -> elements.
//
// Nothing that a model wrote is ever read as HTML: text becomes text nodes, tags come from this file alone, and an
// address becomes a link only where SCHEMES has its scheme. Pictures are shown as links, so that no text can make the
// browser send anything anywhere. Time grows with the length of a text, whatever it holds.
//
//   node: string | {tag, children: [node], attributes: {name: value}}
//
// update(container, text, document) is for text that streams: blocks that have not changed are left alone.

const SCHEMES = ['http:', 'https:', 'mailto:'];
const DEPTH = 12; // quotes and lists inside each other; deeper ones are shown as they are written
const ENTITIES = { '&lt;': '<', '&gt;': '>', '&amp;': '&', '&quot;': '"', '&#39;': "'", '&nbsp;': '\u00a0' };

const made = (tag, children = [], attributes = {}) => ({ tag, children, attributes });

// ------------------------------------------------------------------------------------------------------------ blocks
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*)|$)/;
const RULE = /^ {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: (.*)|$)/;
const NESTED = 2; // spaces that put a line inside the item above it

const READERS = [
  { begins: (lines, at) => FENCE.test(lines[at]), read: readFence },
  { begins: (lines, at) => HEADING.test(lines[at]), read: readHeading },
  { begins: (lines, at) => RULE.test(lines[at]), read: (lines, at) => [made('hr'), at + 1] },
  { begins: (lines, at) => QUOTE.test(lines[at]), read: readQuote, nests: true },
  { begins: (lines, at) => ITEM.test(lines[at]), read: readList, nests: true },
  { begins: isTable, read: readTable },
];

/** The blocks of a text, each with the lines it was read from in `source`. */
export function parse(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, '\n').replace(/\t/g, '    ').split('\n');
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const reader = readerAt(lines, at, depth);
    const [node, next] = reader ? reader.read(lines, at, depth) : readParagraph(lines, at, depth);
    found.push({ ...node, source: lines.slice(at, next).join('\n') });
    at = next;
  }
  return found;
}

function readerAt(lines, at, depth) {
  return READERS.find((each) => (!each.nests || depth < DEPTH) && each.begins(lines, at));
}

function readParagraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && lines[next].trim() && !readerAt(lines, next, depth)) next += 1;
  return [made('p', inline(lines.slice(at, next).map((line) => line.trim()).join('\n'))), next];
}

function readFence(lines, at) {
  const [, marks, info] = FENCE.exec(lines[at]);
  let next = at + 1;
  while (next < lines.length && !closes(lines[next], marks)) next += 1;
  const language = info.trim().split(' ')[0].slice(0, 40);
  const code = made('code', [lines.slice(at + 1, next).join('\n')]);
  return [made('pre', [code], language ? { 'data-language': language } : {}), Math.min(next + 1, lines.length)];
}

function closes(line, marks) {
  const bare = line.trim();
  return bare.length >= marks.length && bare === marks[0].repeat(bare.length);
}

function readHeading(lines, at) {
  const [, marks, text = ''] = HEADING.exec(lines[at]);
  return [made(`h${marks.length}`, inline(text.trim().replace(/ #+$/, ''))), at + 1];
}

function readQuote(lines, at, depth) {
  let next = at;
  while (next < lines.length && QUOTE.test(lines[next])) next += 1;
  const inner = lines.slice(at, next).map((line) => line.replace(/^ {0,3}> ?/, ''));
  return [made('blockquote', parse(inner.join('\n'), depth + 1)), next];
}

function readList(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const items = [];
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (item && item[1].length < indent.length + NESTED && !RULE.test(lines[next])) {
      if (/\d/.test(item[2]) !== ordered || item[1].length < indent.length) break;
      items.push([item[3] ?? '']);
    } else if (lines[next].trim() === '') {
      if (!goesOn(lines, next, indent.length, ordered)) break;
      items.at(-1).push('');
    } else if (spaces(lines[next]) >= indent.length + NESTED) {
      items.at(-1).push(lines[next].slice(Math.min(spaces(lines[next]), indent.length + mark.length + 1)));
    } else {
      if (lines[next - 1].trim() === '' || readerAt(lines, next, depth)) break;
      items.at(-1).push(lines[next].trim());
    }
    next += 1;
  }
  const start = ordered && parseInt(mark, 10) !== 1 ? { start: String(parseInt(mark, 10)) } : {};
  const children = items.map((item) => made('li', unwrapped(parse(item.join('\n'), depth + 1))));
  return [made(ordered ? 'ol' : 'ul', children, start), next];
}

/** Whether the list goes on after blank lines. */
function goesOn(lines, at, indent, ordered) {
  const next = lines[at + 1] ?? '';
  const item = ITEM.exec(next);
  if (item && item[1].length < indent + NESTED) return item[1].length >= indent && /\d/.test(item[2]) === ordered;
  return next.trim() !== '' && spaces(next) >= indent + NESTED;
}

const spaces = (line) => line.length - line.trimStart().length;

/** An item of a single paragraph is not spaced like one. */
function unwrapped(blocks) {
  const [first, ...rest] = blocks;
  return first?.tag === 'p' ? [...first.children, ...rest] : blocks;
}

const cells = (line) => line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '').split(/(?<!\\)\|/).map((cell) => cell.trim());

function isTable(lines, at) {
  if (!lines[at].includes('|') || !(lines[at + 1] ?? '').includes('-')) return false;
  const below = cells(lines[at + 1]);
  return below.every((cell) => /^:?-+:?$/.test(cell)) && below.length === cells(lines[at]).length;
}

function readTable(lines, at) {
  const sides = cells(lines[at + 1]).map((cell) => `${cell[0]}${cell.at(-1)}`);
  const align = (i) => ({ '::': { class: 'center' }, '-:': { class: 'right' } })[sides[i]] ?? {};
  const row = (line, tag) =>
    made('tr', cells(line).slice(0, sides.length).map((cell, i) => made(tag, inline(cell.replaceAll('\\|', '|')), align(i))));
  let next = at + 2;
  while (next < lines.length && lines[next].includes('|')) next += 1;
  const body = lines.slice(at + 2, next).map((line) => row(line, 'td'));
  return [made('table', [made('thead', [row(lines[at], 'th')]), made('tbody', body)]), next];
}

// ------------------------------------------------------------------------------------------------------------ inline
const SPECIAL = /[\\`*_~![\n$&<]|https?:\/\//g;
const ESCAPE = /\\([!-/:-@[-`{-~])/y;
const LINK = /!?\[((?:[^[\]\\\n]|\\.){0,300})\]\( {0,3}<?([^\s()<>]{1,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500})?)>?(?: {1,3}"[^"\n]{0,300}")? {0,3}\)/y;
const BARE = /https?:\/\/[^\s<>"'`()[\]{}|\\^\u3000-\u303f\uff00-\uffef\u2018-\u201f]{1,2000}/y;
const ENTITY = /&(?:lt|gt|amp|quot|nbsp|#39);/y;
const BREAK = /<br *\/?>/iy;
const MARKS = { '**': 'strong', __: 'strong', '*': 'em', _: 'em', '~~': 'del' };
const MATHS = { '\\(': '\\)', '\\[': '\\]', $$: '$$' };

/** A line of text: emphasis, code, links, breaks. */
export function inline(text, links = true) {
  const line = new Line();
  const missing = new Set(); // closing marks that do not come any more
  for (let at = 0; at < text.length; ) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    line.text(text.slice(at, next));
    if (next === text.length) break;
    at = next + read(text, next, line, missing, links);
  }
  return line.end();
}

/** Read what begins with a special character; returns how many characters it took. */
function read(text, at, line, missing, links) {
  const match = (pattern) => {
    pattern.lastIndex = at;
    return pattern.exec(text);
  };
  const char = text[at];
  const maths = MATHS[text.slice(at, at + 2)];
  if (char === '`') return readCode(text, at, line, missing);
  if (maths) {
    const end = closing(text, maths, at + 2, missing);
    if (end >= 0) return line.add(made('span', [text.slice(at, end + 2)], { class: 'math' })) ?? end + 2 - at;
  }
  let found;
  if (char === '\\' && (found = match(ESCAPE))) line.text(found[1]);
  else if (char === '\n') line.add(made('br'));
  else if (char === '<' && (found = match(BREAK))) line.add(made('br'));
  else if (char === '&' && (found = match(ENTITY))) line.text(ENTITIES[found[0]]);
  else if ((char === '[' || char === '!') && links && (found = match(LINK))) line.add(link(found[1], found[2], found[0]));
  else if (char === 'h' && links && (found = match(BARE))) {
    const url = found[0].replace(/[.,:;!?*_~]+$/, '');
    line.add(link('', url, url));
    return url.length;
  } else if ('*_~'.includes(char)) return readMarks(text, at, line);
  else line.text(char);
  return found ? found[0].length : 1;
}

function readCode(text, at, line, missing) {
  const marks = /`+/y;
  marks.lastIndex = at;
  const run = marks.exec(text)[0];
  if (!missing.has(run)) {
    const ends = new RegExp(`(?<!\`)${run}(?!\`)`, 'g');
    ends.lastIndex = at + run.length;
    const end = ends.exec(text);
    if (end) {
      const code = text.slice(at + run.length, end.index).replaceAll('\n', ' ');
      line.add(made('code', [/^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code]));
      return end.index + run.length - at;
    }
    missing.add(run);
  }
  line.text(run);
  return run.length;
}

function closing(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) missing.add(mark);
  return end;
}

function readMarks(text, at, line) {
  const char = text[at];
  let end = at;
  while (text[end] === char) end += 1;
  const [before, after] = [text[at - 1] ?? ' ', text[end] ?? ' '];
  const within = char === '_' && /[\p{L}\p{N}]/u.test(before) && /[\p{L}\p{N}]/u.test(after);
  const sizes = char === '~' ? [2] : [2, 1];
  let left = end - at;
  if (left <= 3 && !within) {
    if (/\S/.test(before)) left = line.close(char, left);
    if (/\S/.test(after)) for (const size of sizes) if (left >= size && line.open(char.repeat(size))) left -= size;
  }
  line.text(char.repeat(left));
  return end - at;
}

/** What a link shows: its label; its address where it goes nowhere that is known to be harmless. */
function link(label, target, written) {
  const href = address(target);
  if (href === null) return written;
  const shown = label ? inline(label, false) : [target];
  return made('a', shown, { href, title: href, target: '_blank', rel: 'noopener noreferrer nofollow' });
}

/** An address that may be followed, or null. */
export function address(text) {
  try {
    const url = new URL(text);
    return SCHEMES.includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Nodes of a line, with the marks that are not closed yet. */
class Line {
  constructor() {
    this.stack = [{ mark: '', children: [] }];
  }

  text(text) {
    const { children } = this.stack.at(-1);
    if (!text) return;
    if (typeof children.at(-1) === 'string') children.push(children.pop() + text);
    else children.push(text);
  }

  add(node) {
    if (typeof node === 'string') this.text(node);
    else this.stack.at(-1).children.push(node);
  }

  /** Begin what a mark marks, unless it has begun already. */
  open(mark) {
    if (this.stack.some((each) => each.mark === mark)) return false;
    this.stack.push({ mark, children: [] });
    return true;
  }

  /** End what `count` marks end; returns how many are left. */
  close(char, count) {
    while (count > 0) {
      const top = this.stack.at(-1).mark;
      const sizes = count >= 3 && top[0] === char ? [top.length] : count >= 2 ? [2, 1] : [1];
      const mark = sizes.map((size) => char.repeat(size)).find((each) => this.stack.some((open) => open.mark === each));
      if (!mark) return count;
      while (this.stack.at(-1).mark !== mark) this.undo();
      const { children } = this.stack.pop();
      this.stack.at(-1).children.push(made(MARKS[mark], children));
      count -= mark.length;
    }
    return 0;
  }

  /** A mark that was never closed is text. */
  undo() {
    const { mark, children } = this.stack.pop();
    this.text(mark);
    for (const child of children) this.add(child);
  }

  end() {
    while (this.stack.length > 1) this.undo();
    return this.stack[0].children;
  }
}

// ---------------------------------------------------------------------------------------------------------- elements
/** The element, or text, of a node. */
export function element(node, document) {
  if (typeof node === 'string') return document.createTextNode(node);
  const built = document.createElement(node.tag);
  for (const [name, value] of Object.entries(node.attributes)) built.setAttribute(name, value);
  for (const child of node.children) built.appendChild(element(child, document));
  return built;
}

const sources = new WeakMap(); // elements -> what they were made of

/** Let a container show a text, touching only the blocks that changed. */
export function update(container, text, document) {
  const blocks = parse(text);
  blocks.forEach((block, i) => {
    const old = container.children[i];
    if (old && sources.get(old) === block.source) return;
    const made = element(block, document);
    sources.set(made, block.source);
    if (old) old.replaceWith(made);
    else container.appendChild(made);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}
