"""Tool calls out of an answer, while it streams.

A call counts from the moment its name and the beginning of its arguments are read: from then on its arguments grow as
they come. What looks like a call and breaks before that stays text, and nothing of it is lost.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from swift.templates.calls import Format
from swift.templates.feed import Feed, Put, Reading

NAME = re.compile(r'[\w./:-]{1,128}')
LONGEST_NAME = 256  # characters until what ends a name, attributes included
NAMES, ARGUMENTS = ('name', 'tool_name'), ('arguments', 'parameters', 'args')
DEEPEST = 64  # elements in elements
_BROKEN = object()
_KEY = re.compile(r'[^\s<>/]+')
_SEAM = re.compile(r'\n|(?<=>)(?=<)')
_ATTRIBUTE = re.compile(r'\b(?:string="(true|false)"|type="(\w+)")')


class Sink(Protocol):
    """Where what is read goes."""

    def content(self, text: str) -> None: ...
    def call(self, name: str, id: str | None = None) -> None:
        """A call begins; its arguments follow."""
        ...

    def arguments(self, text: str) -> None:
        """More of the JSON text of the last call's arguments."""
        ...


class CallReader:
    """Reads answers in one format.

    Args:
        tools: Schemas of the tools that there are: their names tell bare calls, their types tell texts from numbers.
    """

    def __init__(self, form: Format, tools: Sequence[Mapping[str, Any]]):
        self.form = form
        functions = [tool.get('function', tool) for tool in tools]
        self._schemas = {each.get('name'): each.get('parameters') or {} for each in functions}
        self._properties = {name: _properties(schema) for name, schema in self._schemas.items()}
        self._read = READERS[form.body]

    def read(self, feed: Feed, sink: Sink) -> Reading[None]:
        """All of an answer."""
        if self.form.bare:
            return (yield from self._bare(feed, sink))
        begins = [word.strip() for word in (self.form.section[0], self.form.open) if word] if self._schemas else []
        while True:
            feed.drop()
            word = yield from feed.until((*begins, *self.form.wrappers), sink.content)
            if not word:
                return
            if word in self.form.wrappers:
                continue
            began = feed.at
            if word == self.form.open.strip():
                read = yield from self._calls(feed, sink)
            else:
                read = yield from self._section(feed, sink)
            if read:
                yield from self._closing(feed, self.form.section[1])
            else:
                feed.at = began
                sink.content(word)

    def section(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """A section of calls, if the text goes on with one."""
        began = feed.at
        yield from feed.blanks()
        if (yield from feed.skip(self.form.section[0].strip())) and (yield from self._section(feed, sink)):
            yield from self._closing(feed, self.form.section[1])
            return True
        feed.at = began
        return False

    def _bare(self, feed: Feed, sink: Sink) -> Reading[None]:
        """Calls at the beginning of an answer; whatever comes after them is text."""
        yield from feed.blanks()
        yield from feed.skip('<|python_tag|>')
        began = True
        while began or (yield from feed.peek(('{', '[', '<|assistant|>', ';'))):
            before = feed.at
            yield from feed.skip(';', '<|assistant|>')
            yield from feed.blanks()
            if not (yield from self._read(self, feed, sink)):
                feed.at = 0 if began else before
                break
            yield from feed.blanks()
            feed.drop()
            began = False
        yield from feed.until((), sink.content)

    def _section(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """The calls of a section."""
        opening, read = self.form.open.strip(), False
        while True:
            yield from feed.blanks()
            before = feed.at
            if not (yield from feed.skip(opening)):
                break
            if not (yield from self._calls(feed, sink)):
                feed.at = before
                break
            read = True
        return read

    def _calls(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """A call, or a list of calls, behind what opens it."""
        yield from feed.blanks()
        if self.form.listed and (yield from feed.skip('[')):
            read = yield from self._listed(feed, sink)
        else:
            read = yield from self._read(self, feed, sink)
        if read:
            yield from self._closing(feed, self.form.close)
        return read

    def _listed(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """The calls of a list, and its end."""
        read = False
        while True:
            yield from feed.blanks()
            before = feed.at
            if not (yield from self._read(self, feed, sink)):
                feed.at = before
                break
            read = True
            yield from feed.blanks()
            yield from feed.skip(',')
        if read:
            yield from feed.skip(']')
        return read

    def _closing(self, feed: Feed, text: str) -> Reading[None]:
        """What closes a call or a section, as far as it is there."""
        for part in _parts(text):
            before = feed.at
            yield from feed.blanks()
            if not (yield from feed.skip(part)):
                feed.at = before
                return

    # ----------------------------------------------------------------------------------------------------- bodies
    def _object(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``{"name": ..., "arguments": {...}}``, in any order."""
        name: str | None = None
        held: list[str] | None = None  # arguments that came before the name
        called = False
        if not (yield from feed.skip('{')):
            return False
        while True:
            yield from feed.blanks()
            if (yield from feed.skip('}')):
                break
            key = yield from feed.string()
            yield from feed.blanks()
            if key is None or not (yield from feed.skip(':')):
                return called
            yield from feed.blanks()
            if key in NAMES and name is None:
                name = yield from feed.string()
                if name is None or not self._may_call(name):
                    return False
                if held is not None:
                    called = _announce(sink, name, ''.join(held))
            elif key in ARGUMENTS and not called:
                if name is None:
                    held = []
                    whole = yield from _value(feed, held.append, lambda: None)
                else:
                    whole = yield from _value(feed, sink.arguments, lambda name=name: sink.call(name))
                    called = called or whole is not None
                if not whole:
                    return called
            elif not (yield from _other(feed)):
                return called
            yield from feed.blanks()
            yield from feed.skip(',')
        if name is not None and not called and held is None and not self.form.bare:
            called = _announce(sink, name, '{}')
        return called

    def _named(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``NAME name_end {...}``"""
        form = self.form
        found = yield from feed.short((form.name_end.strip() or '\n',), LONGEST_NAME)
        name, _, id = (part.strip() for part in (found[0] if found else '').partition('[CALL_ID]'))
        yield from feed.blanks()
        if form.counted:
            id, name = f'functions.{name}', name.rpartition(':')[0] or name
        if not self._may_call(name):
            return False
        called = yield from _value(feed, sink.arguments, lambda: sink.call(name, id or None))
        return called is not None

    def _tags(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``NAME name_end (key[0] KEY key[1] VALUE key[2])...``"""
        opening, close = self.form.key[0].strip(), _parts(self.form.close)[0]
        after, *more = _parts(self.form.key[1])
        ends = tuple(word for word in (self.form.name_end.strip(), opening, close) if word)
        found = yield from feed.short(ends, LONGEST_NAME)
        if not found:
            return False
        name = found[0].partition('"')[0].strip()
        if not self._may_call(name):
            return False
        if found[1] in (opening, close):
            feed.at -= len(found[1])
        sink.call(name)
        sink.arguments('{')
        first = True
        while True:
            yield from feed.blanks()
            if not (yield from feed.skip(opening)):
                break
            key = yield from feed.short((after,), LONGEST_NAME)
            if key is None:
                return True
            for part in more:
                yield from feed.blanks()
                yield from feed.skip(part)
            sink.arguments('' if first else ', ')
            first = False
            if not (yield from self._tag_value(feed, sink, name, key[0])):
                return True
        sink.arguments('}')
        return True

    def _tag_value(self, feed: Feed, sink: Sink, name: str, key: str) -> Reading[bool]:
        """A value and what ends it, as JSON. False: the text ends before."""
        kind = self._properties.get(name, {}).get(key.partition('"')[0].strip())
        if attribute := _ATTRIBUTE.search(key) if self.form.typed else None:
            kind = 'string' if attribute.group(1) == 'true' or attribute.group(2) == 'string' else 'json'
        sink.arguments(json.dumps(key.partition('"')[0].strip(), ensure_ascii=False) + ': ')
        end, edge = self.form.key[2].strip(), '\n' if self.form.key[1].endswith('\n') else ''
        if kind == 'string':
            text = _Trimmed(lambda piece: sink.arguments(json.dumps(piece, ensure_ascii=False)[1:-1]), edge)
            sink.arguments('"')
            ended = yield from feed.until((end,), text.add)
            if ended:
                sink.arguments('"')
            return bool(ended)
        said: list[str] = []
        if not (yield from feed.until((end,), said.append)):
            return False
        text = ''.join(said).removeprefix(edge).removesuffix(edge)
        sink.arguments(json.dumps(_guess(text), ensure_ascii=False))
        return True

    def _elements(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``NAME name_end (key[0] <KEY> VALUE key[0] </KEY>)...``"""
        form = self.form
        found = yield from feed.short((form.name_end,), LONGEST_NAME)
        if not found or not self._may_call(name := found[0].strip()):
            return False
        sink.call(name)
        sink.arguments('{')
        before = ''
        while True:
            yield from feed.blanks()
            if (yield from feed.peek((form.close,))) or (key := (yield from self._element_key(feed))) is None:
                break
            sink.arguments(f'{before}{json.dumps(key, ensure_ascii=False)}: ')
            before = ', '
            schema = _inside(self._schemas.get(name, {}), key)
            if schema.get('type') == 'string':
                whole = yield from self._element_text(feed, key, sink)
            else:
                value = yield from self._element(feed, key, schema, 0)
                whole = value is not _BROKEN
                sink.arguments(json.dumps(value, ensure_ascii=False) if whole else '')
            if not whole:
                return True
        sink.arguments('}')
        return True

    def _element_key(self, feed: Feed) -> Reading[str | None]:
        """The key that an element opens with."""
        before = feed.at
        if (yield from feed.skip(self.form.key[0])):
            yield from feed.blanks()
            if (yield from feed.skip('<')):
                found = yield from feed.short(('>',), LONGEST_NAME)
                if found and _KEY.fullmatch(found[0]):
                    return found[0]
        feed.at = before
        return None

    def _element_text(self, feed: Feed, key: str, sink: Sink) -> Reading[bool]:
        """A text and the end of its element, as it comes."""
        sink.arguments('"')
        put = lambda piece: sink.arguments(json.dumps(piece, ensure_ascii=False)[1:-1])
        if not (yield from feed.until((self.form.key[0],), put)):
            return False
        sink.arguments('"')
        yield from feed.blanks()
        return bool((yield from feed.skip(f'</{key}>')))

    def _element(self, feed: Feed, key: str, schema: Mapping[str, Any], depth: int) -> Reading[Any]:
        """A value and the end of its element: text, or elements again. ``_BROKEN`` where it is neither."""
        mark, kind = self.form.key[0], schema.get('type')
        said: list[str] = []
        items: list[tuple[str, Any]] = []
        marked = yield from feed.until((mark,), said.append)
        while marked:
            yield from feed.blanks()
            if (yield from feed.skip(f'</{key}>')):
                break
            feed.at = feed.text.rindex(mark, 0, feed.at)
            inner = yield from self._element_key(feed)
            if inner is None or depth == DEEPEST:
                return _BROKEN
            value = yield from self._element(feed, inner, _inside(schema, inner), depth + 1)
            if value is _BROKEN:
                return _BROKEN
            items.append((inner, value))
            yield from feed.blanks()
            marked = yield from feed.skip(mark)
        if not marked:
            return _BROKEN
        if kind == 'array' or (items and kind != 'object' and all(name == 'item' for name, _ in items)):
            return [value for _, value in items]
        if items or kind == 'object':
            return dict(items)
        return ''.join(said) if kind == 'string' else _guess(''.join(said))

    def _python(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``[NAME(KEY=VALUE, ...), ...]``: read as a whole."""
        said: list[str] = []
        if not (yield from feed.peek(('[',))) or not (yield from feed.brackets(said.append)):
            return False
        calls = _python_calls(''.join(said))
        if not calls or not all(self._may_call(name) for name, _ in calls):
            return False
        for name, values in calls:
            _announce(sink, name, json.dumps(values, ensure_ascii=False))
        return True

    def _gemma(self, feed: Feed, sink: Sink) -> Reading[bool]:
        """``NAME{KEY:VALUE, ...}`` with ``<|"|>`` around texts: read as a whole."""
        found = yield from feed.short(('{',), LONGEST_NAME)
        if not found or not self._may_call(found[0].strip()):
            return False
        said: list[str] = []
        if not (yield from feed.until((self.form.close,), said.append)):
            return False
        try:
            values, rest = _gemma_value('{' + ''.join(said).rstrip())
        except (ValueError, IndexError):
            return False
        return not rest and _announce(sink, found[0].strip(), json.dumps(values, ensure_ascii=False))

    def _may_call(self, name: str) -> bool:
        if self.form.bare:
            return name in self._properties
        return bool(NAME.fullmatch(name))


READERS: dict[str, Callable[[CallReader, Feed, Sink], Reading[bool]]] = {
    'object': CallReader._object,
    'named': CallReader._named,
    'tags': CallReader._tags,
    'python': CallReader._python,
    'elements': CallReader._elements,
    'gemma': CallReader._gemma,
    'atem': CallReader._tags,
}


def _inside(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The schema of what is at ``key`` of an object, or of an item of a list; {} where nothing is said."""
    found = (schema.get('properties') or {}).get(key) or (schema.get('items') if key == 'item' else None)
    return found if isinstance(found, Mapping) else {}


def _parts(text: str) -> list[str]:
    """The marks in ``text``, between which blanks may stand."""
    return [part.strip() for part in _SEAM.split(text) if part.strip()]


# ----------------------------------------------------------------------------------------------------------- values
def _announce(sink: Sink, name: str, arguments: str) -> bool:
    sink.call(name)
    sink.arguments(arguments)
    return True


def _value(feed: Feed, put: Put, begin: Callable[[], None]) -> Reading[bool | None]:
    """Arguments: an object, as it grows, or a string that holds one. None: there are none; False: they do not end."""
    if (yield from feed.peek(('"',))):
        text = yield from feed.string()
        if text is None:
            return None
        begin()
        put(text)
        return True
    if not (yield from feed.peek(('{',))):
        return None
    before = feed.at
    feed.at += 1
    yield from feed.blanks()
    pythons = yield from feed.peek(("'",))
    feed.at = before
    begin()
    if not pythons:
        return (yield from feed.brackets(put))
    said: list[str] = []
    whole = yield from feed.brackets(said.append)
    put(_as_json(''.join(said)))
    return whole


def _other(feed: Feed) -> Reading[bool]:
    """Pass over a JSON value that says nothing here."""
    if (yield from feed.peek(('"',))):
        return (yield from feed.string()) is not None
    if (yield from feed.peek(('{', '['))):
        return (yield from feed.brackets(lambda text: None))
    found = yield from feed.short((',', '}'), LONGEST_NAME)
    feed.at -= 1 if found else 0
    return found is not None


class _Trimmed:
    """Passes text on without ``edge`` at its beginning and at its end."""

    def __init__(self, put: Put, edge: str):
        self._put, self._edge = put, edge
        self._held, self._begun = '', False

    def add(self, text: str) -> None:
        text = self._held + text
        if not text:
            return
        if not self._begun:
            text, self._begun = text.removeprefix(self._edge), True
        self._held = self._edge if self._edge and text.endswith(self._edge) else ''
        self._put(text.removesuffix(self._edge) if self._held else text)


def _guess(text: str) -> Any:
    """The JSON value that a text is, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return {'True': True, 'False': False, 'None': None}.get(text.strip(), text)


def _as_json(text: str) -> str:
    """JSON of a Python literal, which models write that saw ``str(dict)``; the text itself if it is none."""
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _python_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    try:
        listed = ast.parse(text.strip(), mode='eval').body
        if not isinstance(listed, ast.List):
            return None
        return [
            (ast.unparse(call.func), {word.arg: _literal(word.value) for word in call.keywords})
            for call in listed.elts
            if isinstance(call, ast.Call) and not call.args and all(word.arg for word in call.keywords)
        ]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _literal(node: ast.expr) -> Any:
    """A Python literal, in which JSON's three words are known too."""
    for each in ast.walk(node):
        for field, value in ast.iter_fields(each):
            if isinstance(value, list):
                setattr(each, field, [_word(item) for item in value])
            elif isinstance(value, ast.AST):
                setattr(each, field, _word(value))
    return ast.literal_eval(_word(node))


def _word(node: Any) -> Any:
    words = {'true': True, 'false': False, 'null': None}
    return ast.Constant(words[node.id]) if isinstance(node, ast.Name) and node.id in words else node


QUOTE = '<|"|>'
_PLAIN = re.compile(r'[^,{}\[\]:]+')


def _gemma_value(text: str) -> tuple[Any, str]:
    """A value in Gemma's notation, and the text behind it. Raises ValueError, IndexError."""
    text = text.lstrip()
    if text.startswith(QUOTE):
        said, quote, rest = text[len(QUOTE) :].partition(QUOTE)
        if not quote:
            raise ValueError('a text that does not end')
        return said, rest
    if text[0] in '{[':
        return _gemma_items(text[1:], text[0] == '{')
    found = _PLAIN.match(text)
    if not found:
        raise ValueError('no value')
    return _guess(found.group().strip()), text[found.end() :]


def _gemma_items(text: str, named: bool) -> tuple[Any, str]:
    items: list[Any] = []
    keys: list[str] = []
    end = '}' if named else ']'
    text = text.lstrip()
    while text[0] != end:
        if named:
            key, colon, text = text.partition(':')
            if not colon:
                raise ValueError('no key')
            keys.append(key.strip().removeprefix(QUOTE).removesuffix(QUOTE))
        value, text = _gemma_value(text)
        items.append(value)
        text = text.lstrip()
        if text[0] == ',':
            text = text[1:].lstrip()
        elif text[0] != end:
            raise ValueError('neither a comma nor an end')
    return (dict(zip(keys, items, strict=True)) if named else items), text[1:]


def _properties(parameters: Mapping[str, Any]) -> dict[str, str]:
    """The type of each parameter, where it has one only."""
    properties = parameters.get('properties') or {}
    return {key: schema.get('type') for key, schema in properties.items() if isinstance(schema, Mapping)}
