"""The pages of objectives, written from ``objectives.catalog``: docs/methods.md, its Chinese twin, the white paper.

    swift show methods --markdown                   docs/methods.md
    SWIFT_LANG=zh swift show methods --markdown     docs/zh/methods.md
    python -m swift.commands.methods_page FOLDER    objectives.tex and methods.bib, for docs/whitepaper

Nothing heavy is imported: code is named, not run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from swift.core import files
from swift.core.vocabulary import read_table
from swift.objectives.catalog import METHODS, SYMBOLS
from swift.objectives.entry import Method, Source

PURPOSES, CHINESE = (Path(__file__).with_name(name) for name in ('methods.tsv', 'methods_zh.tsv'))
MATHS = re.compile(r'\$([^$]+)\$')
TESTS = 'tests/objectives/test_catalog.py'
WORDS = {
    'en': {
        'title': 'Objectives',
        'other': '[中文](zh/methods.md)',
        'head': 'Printed by `swift show methods --markdown` from `swift/objectives/catalog.py`; do not edit.\n'
        '[swift verify](verify.md) holds each loss against a reference in NumPy, its gradient against finite\n'
        'differences of that, and both against TRL, where it has the method.',
        'letters': 'Letters',
        'steps': 'Algorithm',
        'source': 'Source',
        'differs': 'Differs',
        'flags': 'Flags',
        'none': 'none of its own',
        'code': 'Code',
        'reference': 'reference',
        'tested': 'Tested by',
        'example': 'Example',
        'with': 'with',
        'is': ': ',
    },
    'zh': {
        'title': '目标函数',
        'other': '[English](../methods.md)',
        'head': '由 `SWIFT_LANG=zh swift show methods --markdown` 从 `swift/objectives/catalog.py` 生成，请勿修改。\n'
        '[swift verify](verify.md) 用 NumPy 参考实现、有限差分以及 TRL（如果它有该方法）核对每个损失。',
        'letters': '符号',
        'steps': '算法',
        'source': '出处',
        'differs': '不同之处',
        'flags': '参数',
        'none': '没有自己的参数',
        'code': '代码',
        'reference': '参考实现',
        'tested': '测试',
        'example': '示例',
        'with': '加上',
        'is': '：',
    },
}


@cache
def purposes() -> dict[str, dict[str, str]]:
    """Name of a method -> its purpose, and its title and purpose in Chinese."""
    return {line['name']: line for line in read_table(PURPOSES)}


@cache
def _chinese() -> dict[str, str]:
    return {line['name']: line['text'] for line in read_table(CHINESE)}


def file_and_name(path: str) -> tuple[str, str]:
    """'swift.room.module:name' as the file from the root of the project, and the name in it."""
    module, _, name = path.partition(':')
    return f'{module.replace(".", "/")}.py', name


def example(method: Method) -> tuple[str, str]:
    """The YAML that runs the method, and what is added to it on the command line."""
    if method.example[0]:
        return method.example
    losses = method.given.get('loss_type', [])
    plain = losses in ([], ['sigmoid'])
    return f'examples/{method.given["rlhf_type"]}.yaml', '' if plain else f'--loss_type {" ".join(losses)}'


# ------------------------------------------------------------------------------------------------------------ Markdown
def markdown(lang: str) -> Iterator[str]:
    """Lines of the page in 'en' or 'zh'."""
    words = WORDS[lang]
    yield from (f'# {words["title"]}', '', words['other'], '', words['head'], '', f'## {words["letters"]}', '')
    yield from (_letter(symbol, meaning, lang) for symbol, meaning in SYMBOLS)
    for name, method in METHODS.items():
        yield ''
        yield from _section(name, method, lang)


def _section(name: str, method: Method, lang: str) -> Iterator[str]:
    words, purpose, up = WORDS[lang], purposes()[name], '../' if lang == 'en' else '../../'
    title, about = (purpose['title_zh'], purpose['purpose_zh']) if lang == 'zh' else (method.title, purpose['purpose'])
    link = lambda file: f'[`{file}`]({up}{file})'
    part = lambda key, text: f'- **{words[key]}**{words["is"]}{text}'
    yield from (f'## {name} · {title}', '', about, '', '```math', method.formula, '```', '')
    if method.words:
        yield from (_letter(symbol, meaning, lang) for symbol, meaning in method.words.items())
        yield ''
    steps = (f'{i}. {_told(line, lang)}' for i, line in enumerate(method.steps, 1))
    yield from (f'**{words["steps"]}**', '', *steps, '')
    yield part('source', '; '.join(map(_source, method.source)))
    if method.differs:
        yield part('differs', _told(method.differs, lang))
    yield part('flags', ', '.join(f'`--{flag}`' for flag in method.flags) or words['none'])
    (code, own), (reference, other) = file_and_name(method.code), file_and_name(method.reference)
    yield part('code', f'{link(code)}, `{own}`; {words["reference"]}{words["is"]}{link(reference)}, `{other}`')
    yield part('tested', f'{link(TESTS)}, `swift verify --methods {name}`')
    file, flags = example(method)
    yield part('example', link(file) + (f' {words["with"]} `{flags}`' if flags else ''))


def _letter(symbol: str, meaning: str, lang: str) -> str:
    return f'- $`{symbol}`${WORDS[lang]["is"]}{_told(meaning, lang)}'


def _told(text: str, lang: str) -> str:
    """A text of the catalogue in this language, with its maths and flags marked."""
    return re.sub(r'(--\w+)', r'`\1`', _inline(_chinese().get(text, text) if lang == 'zh' else text))


def _inline(text: str) -> str:
    return MATHS.sub(r'$`\1`$', text)


def _source(source: Source) -> str:
    title = f'[{source.title}]({source.url})' if source.url else f'{source.title}, {source.printed}'
    return f'{title}, {source.where}' if source.where else title


# --------------------------------------------------------------------------------------------------------------- LaTeX
def latex() -> Iterator[str]:
    """Lines of the chapter of objectives: a table of letters, then a section for each."""
    yield r'\begin{description}'
    yield from (rf'\item[${symbol}$] {_tex(meaning)}' for symbol, meaning in SYMBOLS)
    yield r'\end{description}'
    for name, method in METHODS.items():
        yield from _tex_section(name, method)


def _tex_section(name: str, method: Method) -> Iterator[str]:
    purpose, label = purposes()[name], name.replace('_', '-')
    yield rf'\section{{{_tex(method.title)}\quad {_tex(purpose["title_zh"])}}}\label{{sec:{label}}}'
    yield rf'{_tex(purpose["purpose"])} {_tex(purpose["purpose_zh"])}'
    yield rf'\begin{{equation}}\label{{eq:{label}}}'
    yield method.formula
    yield r'\end{equation}'
    if method.words:
        yield 'Here ' + '; '.join(f'${symbol}$ is {_tex(meaning)}' for symbol, meaning in method.words.items()) + '.'
    yield r'\begin{algorithm}[H]'
    yield rf'\caption{{{_tex(method.title)}, \texttt{{{_tex(name)}}}}}\label{{alg:{label}}}'
    yield r'\begin{algorithmic}[1]'
    yield from (rf'\State {_tex(line)}' for line in method.steps)
    yield from (r'\end{algorithmic}', r'\end{algorithm}')
    where = lambda source: f' ({_tex(source.where)})' if source.where else ''
    cited = ', '.join(rf'\cite{{{each.key}}}{where(each)}' for each in method.source)
    code, own = file_and_name(method.code)
    flags = ', '.join(rf'\texttt{{-{{}}-{_tex(flag)}}}' for flag in method.flags) or 'none of its own'
    yield rf'\paragraph{{Source.}} {cited}. \textbf{{Code.}} \path{{{code}}}, \texttt{{{_tex(own)}}}.'
    yield rf'\textbf{{Flags.}} {flags}.'
    if method.differs:
        yield rf'\textbf{{Differs.}} {_tex(method.differs)}.'
    yield ''


def bibliography() -> Iterator[str]:
    """Lines of the BibTeX entries that ``latex`` cites."""
    for each in {each.key: each for method in METHODS.values() for each in method.source}.values():
        printed = f'arXiv:{each.arxiv}' if each.arxiv else each.printed
        fields = {'title': f'{{{_tex(each.title)}}}', 'year': each.year, 'howpublished': printed}
        yield f'@misc{{{each.key}, {", ".join(f"{name} = {{{text}}}" for name, text in fields.items())}}}'


def _tex(text: str) -> str:
    """Text with its maths as it is, everything else escaped."""
    parts = re.split(r'(\$[^$]+\$)', text)
    return ''.join(part if part.startswith('$') else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    text = re.sub(r'([&%#_])', r'\\\1', text)
    return re.sub(r'--((?:\w|\\_)+)', r'\\texttt{-{}-\1}', text)


if __name__ == '__main__':
    for name, lines in (('objectives.tex', latex()), ('methods.bib', bibliography())):
        files.write(Path(sys.argv[1]) / name, '\n'.join(lines) + '\n')
