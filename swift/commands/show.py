"""``swift show``: tables of what there is, printed from the same data that the commands use.

    swift show flags [VERB ...] [WORD]     every flag: built, accepted without effect, or not built yet
    swift show models|datasets|templates|methods [WORD]
    swift show deviations                  defaults that differ from ms-swift, and why
    swift show config VERB [run.yaml] ...  the resolved configuration, with the source of every value

``swift show flags --markdown`` writes docs/flags.md, ``swift show methods --markdown`` docs/methods.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from swift.commands.configs import ALIGNED, CONFIGS, VOCABULARY, kinds, resolve
from swift.commands.names import ALIASES, DEVIATIONS, ESTABLISHED, OTHER_VARIABLES, VARIABLES
from swift.core.config import dump, parse
from swift.core.errors import ConfigError, did_you_mean
from swift.core.flags import documentation, flags_of, groups_of
from swift.core.table import table
from swift.core.usage import shown_value, usage
from swift.core.vocabulary import read_table

CHINESE = Path(__file__).with_name('zh.tsv')
TRAINING = ('sft', 'pt')
UNLISTED = ('inspect', 'plan', 'verify', 'show')  # they take the flags of others, and few of their own
Table = tuple[str, list[str], list[list[str]]]  # title, heading, rows


def main(args: Sequence[str] | None = None) -> int:
    """Print the tables that the words ask for."""
    words = list(sys.argv[1:] if args is None else args)
    what, rest = (words[0], words[1:]) if words and not words[0].startswith('--') else ('', words)
    if what == 'config':
        return _config(rest)
    if what not in TABLES:
        known = [*TABLES, 'config']
        raise ConfigError(
            f'{f"swift show {what}".strip()}: expected one of {", ".join(known)}{did_you_mean(what, known)}'
        )
    plain = [word for word in rest if not word.startswith('--')]
    options = parse(CONFIGS['show'], [word for word in rest if word.startswith('--')], VOCABULARY, os.environ).show
    tables = list(TABLES[what](plain))
    if options.json:
        print(json.dumps(_objects(tables), ensure_ascii=False, indent=1))
    else:
        print('\n'.join(_page(what, tables) if options.markdown else _terminal(tables)))
    return 0


def usage_of(verb: str, title: str, lang: str) -> Iterator[str]:
    """Lines of ``swift VERB --help``."""
    yield from usage(CONFIGS[verb], title, lang=lang, texts=chinese() if lang == 'zh' else None)
    if verb in ALIGNED:
        yield ''
        yield (
            '给出 --rlhf_type 时还有 swift rlhf 的参数' if lang == 'zh' else 'with --rlhf_type: the flags of swift rlhf'
        )
    rows = VOCABULARY.rows(CONFIGS[verb].like or verb)
    idle = sum(any(row.state == 'idle' and row.kind for row in of) for of in rows.values())
    later = sum(any(row.state == 'later' and row.kind for row in of) for of in rows.values())
    yield ''
    if lang == 'zh':
        yield f'另有 {idle} 个参数在此接受但不起作用，{later} 个尚未实现：swift show flags {verb}'
    else:
        yield f'{idle} more flags are accepted without effect here, {later} are not built yet: swift show flags {verb}'


@cache
def chinese() -> dict[str, str]:
    """Flag or group class name -> Chinese text."""
    return {line['name']: line['text'] for line in read_table(CHINESE)}


def _config(words: list[str]) -> int:
    """Print the resolved configuration of the command line that follows."""
    if not words or words[0] not in CONFIGS:
        raise ConfigError(f'swift show config: expected a verb and its flags; verbs: {", ".join(CONFIGS)}')
    print(dump(resolve(words[0], words[1:])).yaml, end='')
    return 0


# ------------------------------------------------------------------------------------------------------- tables
def _flags(words: list[str]) -> Iterator[Table]:
    """Flags by group, then those without effect and those to come; words narrow it to verbs, or to names."""
    verbs = [word for word in words if word in CONFIGS] or [verb for verb in CONFIGS if verb not in UNLISTED]
    wanted = [word.lstrip('-').replace('-', '_') for word in words if word not in CONFIGS]
    keep = lambda name: not wanted or any(word in name for word in wanted)
    for cls, group in _groups(verbs):
        rows = []
        texts = documentation(cls)
        for field in dataclasses.fields(cls):
            holders = [verb for verb in verbs if any(groups_of(kind).get(group) is cls for kind in kinds(verb))]
            if keep(field.name):
                kind = next(kind for kind in kinds(holders[0]) if groups_of(kind).get(group) is cls)
                flag = flags_of(kind)[field.name]
                default = shown_value(flag.plain)
                rows.append([field.name, ', '.join(holders), flag.kind.placeholder, default, texts.get(field.name, '')])
        if rows:
            yield ' '.join((cls.__doc__ or group).split()), ['flag', 'verbs', 'values', 'default', 'meaning'], rows
    yield from _established(verbs, keep)


def _groups(verbs: list[str]) -> Iterator[tuple[type, str]]:
    """Each group class of these verbs once, and the field that holds it."""
    seen: set[type] = set()
    for verb in verbs:
        for group, cls in (item for kind in kinds(verb) for item in groups_of(kind).items()):
            if cls not in seen:
                seen.add(cls)
                yield cls, group


def _established(verbs: list[str], keep: Any) -> Iterator[Table]:
    titles = {'idle': 'Accepted without effect here', 'later': 'Not built yet: refused by name'}
    for state, title in titles.items():
        rows = []
        for line in read_table(ESTABLISHED):
            holders = [verb for verb in line['verbs'].split(',') if verb in verbs]
            if line['state'] == state and holders and keep(line['name']):
                values = line['values'].replace('|', ', ') or 'any'
                rows.append([line['name'], ', '.join(holders), values, line['note']])
        if rows:
            yield title, ['flag', 'verbs', 'values', 'note'], rows


def _deviations(words: list[str]) -> Iterator[Table]:
    lines = [list(line.values()) for line in read_table(DEVIATIONS)]
    yield 'Defaults that differ from ms-swift', ['flag', 'verbs', 'theirs', 'ours', 'why'], lines


def _names(words: list[str]) -> Iterator[Table]:
    old = [[name, alias.flag or 'nothing'] for name, alias in ALIASES.items()]
    yield 'Old names', ['old', 'means'], old
    variables = [[name, f'--{flag}'] for name, flag in VARIABLES.items()] + [list(i) for i in OTHER_VARIABLES.items()]
    yield 'Environment variables', ['variable', 'means'], variables


def _models(words: list[str]) -> Iterator[Table]:
    from swift.models import catalog

    yield 'Models', ['id', 'family', 'template'], _matching(words, catalog.rows())


def _datasets(words: list[str]) -> Iterator[Table]:
    from swift.data import catalog

    metas = {id(meta): meta for meta in map(catalog.find, catalog.names()) if meta}
    rows = [
        (
            ' | '.join(meta.names),
            ' '.join(str(getattr(s, 'subset', s)) for s in meta.subsets),
            meta.help or ' '.join(meta.tags),
        )
        for meta in metas.values()
    ]
    yield 'Datasets', ['names', 'subsets', 'about'], _matching(words, rows)


def _templates(words: list[str]) -> Iterator[Table]:
    from swift.templates import catalog

    yield 'Templates', ['name', 'about'], _matching(words, catalog.rows())


def _methods(words: list[str]) -> Iterator[Table]:
    from swift.commands import methods_page
    from swift.objectives.catalog import METHODS

    rows = [
        (name, method.title, ' '.join(each.arxiv for each in method.source), methods_page.purposes()[name]['purpose'])
        for name, method in METHODS.items()
    ]
    yield 'Objectives', ['name', 'title', 'arXiv', 'purpose'], _matching(words, rows)


def _matching(words: list[str], rows: Any) -> list[list[str]]:
    """The rows in which every word occurs."""
    return [list(row) for row in rows if all(word.lower() in ' '.join(row).lower() for word in words)]


TABLES = {
    'flags': _flags,
    'models': _models,
    'datasets': _datasets,
    'templates': _templates,
    'methods': _methods,
    'deviations': _deviations,
    'names': _names,
}


# -------------------------------------------------------------------------------------------------------- forms
def _terminal(tables: list[Table]) -> Iterator[str]:
    for title, heading, rows in tables:
        yield title
        yield from table([heading, *rows], cells=160) if rows else ['  (none)']
        yield ''


def _page(what: str, tables: list[Table]) -> Iterator[str]:
    """The page of the documentation; that of methods is more than a table."""
    if what != 'methods':
        return _markdown(what, tables)
    from swift.commands import methods_page

    return methods_page.markdown('zh' if os.environ.get('SWIFT_LANG', '').lower().startswith('zh') else 'en')


def _markdown(what: str, tables: list[Table]) -> Iterator[str]:
    escape = lambda text: text.replace('|', '\\|').replace('<', '&lt;').replace('\n', ' ')
    yield f'# {what.capitalize()}'
    yield ''
    yield f'Printed by `swift show {what} --markdown`; do not edit.'
    for title, heading, rows in tables:
        yield f'\n## {title}\n'
        yield f'| {" | ".join(heading)} |'
        yield f'|{" --- |" * len(heading)}'
        for row in rows:
            yield f'| {" | ".join(map(escape, row))} |'


def _objects(tables: list[Table]) -> list[dict[str, str]]:
    return [{'table': title, **dict(zip(heading, row, strict=True))} for title, heading, rows in tables for row in rows]
