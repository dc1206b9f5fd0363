"""Where settings come from: the command line, files, environment variables. Each becomes a list of ``Given``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.core.document import Node, load
from swift.core.errors import ConfigError
from swift.core.flags import SECRET, Kind
from swift.core.vocabulary import Alias, Vocabulary

FILES = ('.yaml', '.yml', '.json')


@dataclass(frozen=True, slots=True)
class Given:
    """One setting as somebody gave it."""

    name: str
    raw: list[str] | Node | tuple[Any]  # words, a node of a file, or one Python value
    label: str  # how a message calls it: '--lora_rank', 'run.yaml:7: lora.r', 'USE_HF'
    source: str  # what provenance says: 'command line', 'run.yaml:7', 'environment USE_HF'

    @property
    def words(self) -> list[str]:
        """The setting as words of a command line."""
        if isinstance(self.raw, list):
            return self.raw
        value = self.raw.plain() if isinstance(self.raw, Node) else self.raw[0]
        items = value if isinstance(value, (list, tuple)) else [value]
        return [str(item).lower() if isinstance(item, bool) else str(item) for item in items]

    @property
    def text(self) -> str | None:
        """The setting as one word; a bare flag is ``true``; None where there are several."""
        words = self.words or ['true']
        return words[0] if len(words) == 1 else None

    def read(self, kind: Kind) -> Any:
        """The checked value. Raises ValueError saying what was expected."""
        if isinstance(self.raw, list):
            return kind.read_words(self.raw)
        return self.raw.read(kind) if isinstance(self.raw, Node) else kind.read_value(self.raw[0])

    def renamed(self, name: str, word: str | None = None) -> Given:
        """The same setting under another name, perhaps with another value."""
        return dataclasses.replace(self, name=name, raw=self.raw if word is None else [word])


@dataclass
class Report:
    """Everything that is to be said at the end. ``broken`` holds flags that a problem is already about; ``unread`` is
    set if a file could not be read, so that nobody knows what it gives."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    unread: bool = False

    def problem(self, text: str, *about: str) -> None:
        """Add a problem with these flags."""
        self.problems.append(text)
        self.broken.update(about)


def from_argv(argv: Sequence[str], report: Report) -> tuple[list[str], list[Given]]:
    """Files and flags of a command line. Words before the first flag are files; ``--config`` names more of them."""
    files: list[str] = []
    flags: list[Given] = []
    words = files
    for word in argv:
        if not word.startswith('--') or word == '--':
            words.append(word)
            continue
        typed, equals, value = word[2:].partition('=')
        name = typed.replace('-', '_')
        words = files if name == 'config' else []
        if equals:
            words.append(value)
        if name != 'config':
            flags.append(Given(name, words, f'--{typed}', 'command line'))
    for path in files:
        if not path.endswith(FILES):
            report.problem(f'{path}: expected a flag (--name value) or a .yaml, .yml or .json file')
    return [path for path in files if path.endswith(FILES)], flags


def from_environment(environ: Mapping[str, str], vocabulary: Vocabulary) -> list[Given]:
    """Settings of the environment variables that stand for flags; empty ones are as if not set."""
    return [
        Given(flag, [environ[name]], name if SECRET.search(name) else f'{name}={environ[name]}', f'environment {name}')
        for name, flag in vocabulary.variables.items()
        if environ.get(name)
    ]


def from_file(
    path: str, vocabulary: Vocabulary, takes_mapping: Callable[[str], bool], report: Report
) -> tuple[list[Given], dict[str, str]]:
    """Settings of a YAML or JSON file, and its ENV section.

    Args:
        takes_mapping: whether the value of a flag may itself be a mapping.
    """
    try:
        tree = load(path)
    except ConfigError as error:
        report.problems += error.problems
        report.unread = True
        return [], {}
    assert isinstance(tree.content, dict)
    environ = _environ(tree.content.pop('ENV', None), report)
    return list(_settings(tree, '', vocabulary, takes_mapping, report)), environ


def _environ(section: Node | None, report: Report) -> dict[str, str]:
    if section is None:
        return {}
    lines = section.content
    if not isinstance(lines, dict) or not all(isinstance(node.content, str) for node in lines.values()):
        report.problem(f'{section.where}: ENV: expected "NAME: value" lines')
        return {}
    return {name: str(node.content) for name, node in lines.items()}


def _settings(
    tree: Node, prefix: str, vocabulary: Vocabulary, takes_mapping: Callable[[str], bool], report: Report
) -> Iterator[Given]:
    """The settings below ``tree``: sections are opened, nested keys become the flags they stand for."""
    assert isinstance(tree.content, dict)
    for key, node in tree.content.items():
        path, name = f'{prefix}{key}', key.replace('-', '_')
        given = Given(name, node, f'{node.where}: {path}', node.where)
        if (alias := vocabulary.path(path)) is not None:
            yield from _translate(given, alias, report)
        elif not isinstance(node.content, dict) or (takes_mapping(name) and not vocabulary.is_section(path)):
            yield given
        elif vocabulary.is_section(path):
            yield from _settings(node, f'{path}.', vocabulary, takes_mapping, report)
        else:
            known = sorted({*vocabulary.sections, *(path.partition('.')[0] for path in vocabulary.paths)})
            report.problem(f'{given.label}: unknown section. Known: {", ".join(known)}')


def _translate(given: Given, alias: Alias, report: Report) -> Iterator[Given]:
    """The settings that a nested key stands for."""
    text = given.text
    if alias.values is not None and text is not None and text in alias.values:
        value = alias.values[text]
        if value is not None and alias.flag:
            yield given.renamed(alias.flag, value)
    elif alias.flag is None:
        if alias.values is not None:
            report.problem(f'{given.label}: expected {" or ".join(alias.values)}')
    elif ' ' in alias.flag and isinstance(given.raw, Node) and isinstance(given.raw.content, list):
        for name, item in zip(alias.flag.split(), given.raw.content, strict=False):
            yield dataclasses.replace(given, name=name, raw=item)
    else:
        yield given.renamed(alias.flag)
