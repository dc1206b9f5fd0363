"""Makes the shipped rows: `python -m swift.data.builtin.build` rewrites python_docs.jsonl and chatterbot.jsonl.

In: the docstrings and language reference of the running Python (3.11), the package ``chatterbot-corpus``, and the
tables of ``sources.yaml`` beside this file, which say what is taken from them. Out: rows ``{"query", "response",
"tag"}``. Nothing is random: the same Python and the same corpus give the same bytes. ``self_cognition.jsonl``,
``facts.jsonl`` and ``heldout.jsonl`` are written by hand and only checked by tests.
"""

from __future__ import annotations

import builtins
import inspect
import json
import pkgutil
import pydoc_data.topics
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
Row = dict[str, Any]
LONGEST = 180  # characters of an answer made of more than one sentence

ASK_WHAT = (
    'What does `{name}` do in Python?',
    'What is `{name}` for?',
    'Explain the Python function `{name}`.',
    'I came across `{name}` in some Python code. What does it do?',
    'In Python, what does `{name}` do?',
    'Describe `{name}` in one or two sentences.',
)
ASK_WHICH = ('Which {kind} {does}?', 'Name the {kind} that {does}.')
ASK_ERROR = (
    'What does `{name}` mean in Python?',
    'When does Python raise `{name}`?',
    'My program stopped with `{name}`. What is that?',
)


def find(name: str) -> Any:
    """The object behind a dotted name of the standard library, such as ``os.path.join`` or ``str.split``."""
    return pkgutil.resolve_name(f'builtins.{name}' if hasattr(builtins, name.partition('.')[0]) else name)


def opening(text: str) -> str:
    """The first sentence of ``text`` and the following ones while they are short, on one line, as Markdown."""
    text = re.sub(r'\*(\w[\w ]*\w|\w)\*', r'`\1`', ' '.join(text.split()).replace('``', '`')).rstrip('.:')
    text = re.sub(r'(\w)- (?!and|or)', r'\1-', text).removesuffix(', for example')
    first, *more = text.split('. ')
    while more and len(first) + len(more[0]) < LONGEST:
        first += '. ' + more.pop(0)
    return first + '.'


def summary(name: str) -> str:
    """The opening of the first paragraph of prose in an object's docstring."""
    paragraphs = (inspect.getdoc(find(name)) or '').split('\n\n')
    return opening(next(p for p in paragraphs if '->' not in p and not p.startswith(f'{name.rpartition(".")[2]}(')))


def bend(verb: str) -> str:
    """The third person of a verb: push, pushes; try, tries."""
    if verb.endswith(('ch', 'sh', 's', 'x', 'z')):
        return verb + 'es'
    return verb[:-1] + 'ies' if re.search('[^aeiou]y$', verb) else verb + 's'


def third_person(text: str, verbs: list[str]) -> str:
    """``Return the sum and print it. Raise nothing.`` -> ``returns the sum and prints it. It raises nothing.``

    A text that does not begin with one of the verbs (an adverb may stand before it) raises ValueError.
    """
    known = {bend(verb): bend(verb) for verb in verbs} | {verb: bend(verb) for verb in verbs}
    inner = rf'(\band |\bor |\bthen |; |, )({"|".join(sorted(verbs))})\b(?=[^,]| \w)'

    def say(sentence: str) -> str | None:
        adverb, verb, rest = re.match(r'(\w+ly )?(\w*)(.*)', sentence[:1].lower() + sentence[1:]).groups()
        if verb not in known:
            return None
        return f'{adverb or ""}{known[verb]}{re.sub(inner, lambda m: m[1] + known[m[2]], rest)}'

    first, *more = text.split('. ')
    if (said := say(first)) is None:
        raise ValueError(f'begins with no verb of the list: {text}')
    return '. '.join([said, *(f'It {said}' if (said := say(other)) else other for other in more)])


def documented(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions about functions, answered by their docstrings; every third one asks the other way round."""
    verbs = sources['verbs'].split()
    names = [(owner, name) for owner, line in sources['functions'].items() for name in line.split()]
    for i, (owner, name) in enumerate(names):
        full = f'{owner}.{name}' if owner else name
        does = third_person(summary(full), verbs)
        if i % 3 == 2 and '. ' not in does and len(does) < 110:
            question = ASK_WHICH[i // 3 % len(ASK_WHICH)].format(kind=kind(owner), does=does.rstrip('.'))
        else:
            question = ASK_WHAT[i % len(ASK_WHAT)].format(name=full)
        yield question, f'`{full}` {does}'


def kind(owner: str) -> str:
    """What a member of ``owner`` is called: a built-in function, a method of a class, a function of a module."""
    if not owner:
        return 'built-in Python function'
    return f'`{owner}` method' if isinstance(find(owner), type) else f'function of the `{owner}` module'


def exceptions(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions about built-in exceptions."""
    for i, name in enumerate(sources['exceptions'].split()):
        said = summary(name).rstrip('.')
        yield (
            ASK_ERROR[i % len(ASK_ERROR)].format(name=name),
            f'`{name}` is a built-in exception: {said[0].lower()}{said[1:]}.',
        )


def statements(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions about the language, answered by a paragraph of the language reference."""
    for topic, (question, start) in sources['topics'].items():
        paragraphs = [' '.join(p.split()) for p in pydoc_data.topics.topics[topic].split('\n\n')]
        answer = next(p for p in paragraphs if p.startswith(start))
        yield question, opening(re.sub(r' \((see|See|described in) [^)]*\)', '', answer).replace('"', '`'))


def examples(sources: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions with an example whose value is computed here, by running it."""
    for i, (name, code) in enumerate(sources['examples'].items()):
        space: dict[str, Any] = {}
        *lines, last = code.strip().splitlines()
        exec('\n'.join(lines), space)
        value = repr(eval(last, space))
        if i % 2 or lines:
            shown = f'`{name}`' if '.' in name or hasattr(builtins, name) else name
            yield f'Show me a short example of {shown} in Python.', f'```python\n{code.strip()}  # {value}\n```'
        else:
            yield f'What does `{last}` evaluate to in Python?', f'It evaluates to `{value}`.'


def python_docs(sources: dict[str, Any]) -> list[Row]:
    """Rows made of the standard library's own documentation."""
    pairs = [*documented(sources), *exceptions(sources), *statements(sources), *examples(sources)]
    return [{'query': query, 'response': response, 'tag': 'en'} for query, response in pairs]


def chatterbot(sources: dict[str, Any]) -> list[Row]:
    """Single exchanges of chatterbot-corpus that state facts; none of them is about the bot itself."""
    import chatterbot_corpus

    data = Path(chatterbot_corpus.__file__).parent / 'data'
    rows = []
    for file, keep in sources.items():
        exchanges = yaml.safe_load((data / f'{file}.yml').read_text(encoding='utf-8'))['conversations']
        for index in keep['rows'] if 'rows' in keep else range(keep['from'], keep['to']):
            if index in keep.get('without', ()):
                continue
            query, response = (' '.join(str(text).split()) for text in exchanges[index][:2])
            tag = 'zh' if file.startswith('chinese') else 'en'
            ask = '.' if query.startswith('Tell') else '?'
            rows.append({'query': sentence(query, tag, ask), 'response': sentence(response, tag, '.'), 'tag': tag})
    return rows


def sentence(text: str, tag: str, end: str) -> str:
    """Text that begins with a capital letter and ends with a mark; ``end`` where it brings none."""
    marks = {'zh': {'?': '？', '.': '。'}, 'en': {'?': '?', '.': '.'}}[tag]
    stem = text.strip().rstrip('?.？。 ')
    end = text.strip()[len(stem) :].strip()[:1] or end
    return stem[:1].upper() + stem[1:] + marks.get(end, end)


def write(name: str, rows: list[Row]) -> None:
    """One JSON object a line, in the order of the tables."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (HERE / name).write_text('\n'.join(lines) + '\n', encoding='utf-8')


def main() -> None:
    """Rewrite both files."""
    sources = yaml.safe_load((HERE / 'sources.yaml').read_text(encoding='utf-8'))
    write('python_docs.jsonl', python_docs(sources['python']))
    write('chatterbot.jsonl', chatterbot(sources['chatterbot']))


if __name__ == '__main__':
    main()
