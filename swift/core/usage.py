"""The help of one verb, printed from its configuration class: flags by group with kind, default and text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from swift.core.flags import Flag, documentation, flags_of, groups_of
from swift.core.table import fold, pad, width

NARROW, INDENT, COLUMN = 60, '  ', 34
PRECEDENCE = {
    'en': (
        'A value is taken from the first of these that gives it: flags of the command line;',
        'files, the last one first; environment variables; args.json of the checkpoint;',
        'the defaults shown here.',
    ),
    'zh': (
        '每个值取自下列来源中最先给出它的一个：命令行参数；',
        '配置文件（后面的优先）；环境变量；检查点中的 args.json；',
        '此处所列的默认值。',
    ),
}
WORDS = {
    'en': {
        'usage': 'Usage',
        'default': 'default',
        'dashes': '--a-b is the same as --a_b; lists are separated by spaces.',
    },
    'zh': {'usage': '用法', 'default': '默认', 'dashes': '--a-b 与 --a_b 相同；列表用空格分隔。'},
}


def usage(config: type, title: str, *, lang: str = 'en', texts: Mapping[str, str] | None = None) -> Iterator[str]:
    """Lines of the help of a verb.

    Args:
        title: what the verb does.
        texts: translations by flag, ``Group.flag`` or group class name; what is missing stays English.
    """
    words, texts = WORDS[lang], texts or {}
    columns = max(NARROW, min(120, shutil.get_terminal_size().columns))
    yield f'{words["usage"]}: swift {config.verb} [run.yaml ...] [--flag value ...]'
    yield ''
    yield from fold(title, columns)
    yield ''
    yield from PRECEDENCE[lang]
    yield words['dashes']
    shown: set[str] = set()
    for group, cls in groups_of(config).items():
        flags = [flag for flag in flags_of(config).values() if group in flag.groups and flag.name not in shown]
        shown.update(flag.name for flag in flags)
        yield ''
        yield texts.get(cls.__name__) or ' '.join((cls.__doc__ or group).split())
        english = documentation(cls)
        for flag in flags:
            text = texts.get(f'{cls.__name__}.{flag.name}') or texts.get(flag.name) or english.get(flag.name, '')
            yield from _entry(flag, f'{text} [{words["default"]}: {shown_value(flag.default)}]', columns)


def shown_value(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list):
        return ' '.join(map(str, value)) or 'none'
    return json.dumps(value) if isinstance(value, (dict, str)) and value in ({}, '') else str(value)


def _entry(flag: Flag, text: str, columns: int) -> Iterator[str]:
    head = f'{INDENT}--{flag.name} {flag.kind.placeholder}'
    lines = fold(text, columns - COLUMN)
    if width(head) >= COLUMN:
        yield head
        head = ''
    for line in lines:
        yield f'{pad(head, COLUMN)}{line}'
        head = ''
