"""The resolved configuration of one command: every value, and where it came from.

``parse(SftConfig, argv, vocabulary, environ)`` reads flags, YAML files, environment variables and a checkpoint's
args.json, in this order of precedence, and returns the verb's dataclass, or raises one ConfigError with every problem.
``dump(cfg)`` gives what is written beside a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

from swift.core.errors import ConfigError, did_you_mean
from swift.core.flags import SECRET, flags_of, groups_of
from swift.core.layers import Given, Report, from_argv, from_environment, from_file
from swift.core.vocabulary import Alias, Vocabulary

BARE = re.compile(r'[A-Za-z_./][\w./-]*')  # text that YAML needs no quotes for
AMBIGUOUS = frozenset({'null', 'none', 'true', 'false', 'yes', 'no', 'on', 'off', 'y', 'n'})

C = TypeVar('C', bound='Config')


@dataclass(kw_only=True)
class Config:
    """Base of the verbs' dataclasses, whose other fields are the groups of flags that the rooms keep in ``args.py``.

    ``sources`` says for every flag where its value came from, ``notes`` what the user should hear once, ``environ``
    holds the ENV section of the files. ``ready`` is set once all of that was acted upon.
    """

    verb: ClassVar[str] = ''
    like: ClassVar[str] = ''  # the verb whose rows of the table of established flags hold here too
    defaults: ClassVar[dict[str, Any]] = {}  # where they differ from those of the groups

    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    ready: bool = False

    def __post_init__(self) -> None:
        for name, flag in flags_of(type(self)).items():
            self.sources.setdefault(name, 'default')
            if name in self.defaults and self.get(name) == flag.plain:
                self.put(name, flag.default, 'default')

    @property
    def kin(self) -> str:
        """The verb whose rules hold: its own, or that of the run that it looks at."""
        return self.like or self.verb

    def inherit(self, given: set[str]) -> list[Given]:
        """Settings that a checkpoint brings. ``given`` holds the flags that somebody gave."""
        return []

    def derive(self) -> None:
        """Fill values that follow from others."""

    def check(self) -> Iterator[tuple[str, str]]:
        """Problems as (flags, what is wrong and what to do).

        One is left out when an earlier problem is about any of its flags, or when nobody gave any of them and a file
        could not be read; one without flags, after any problem.
        """
        return iter(())

    def get(self, name: str) -> Any:
        """The value of a flag, whichever group holds it."""
        return getattr(getattr(self, flags_of(type(self))[name].groups[0]), name)

    def put(self, name: str, value: Any, source: str) -> None:
        """Set a flag in every group that holds it, and remember the source."""
        for group in flags_of(type(self))[name].groups:
            setattr(getattr(self, group), name, value)
        self.sources[name] = source

    def fill(self, name: str, value: Any) -> None:
        """Set a flag that nobody gave and whose default is None."""
        if value is not None and self.get(name) is None:
            self.put(name, value, 'derived')


def parse(kind: type[C], argv: Sequence[str], vocabulary: Vocabulary, environ: Mapping[str, str]) -> C:
    """The configuration that a command line asks for.

    Raises:
        ConfigError: with every problem of flags, files, environment and their combination.
    """
    report, config = Report(), kind()
    reader = _Reader(kind, vocabulary, report)
    files, words = from_argv(argv, report)
    settings: list[Given] = []
    for path in [*filter(None, [environ.get('SWIFT_CONFIG_FILE')]), *files]:
        more, variables = from_file(path, vocabulary, reader.takes_mapping, report)
        settings += more
        config.environ |= variables
    variables = from_environment({**environ, **config.environ}, vocabulary)
    reader.take([given for given in variables if reader.knows(given.name)])
    reader.take([*settings, *words])
    return _complete(config, reader)


def asked(argv: Sequence[str], vocabulary: Vocabulary, environ: Mapping[str, str]) -> set[str]:
    """Names of the flags that a command line and its files give, whatever verb they are for."""
    report = Report()
    files, words = from_argv(argv, report)
    several = (
        from_file(path, vocabulary, lambda name: False, report)[0]
        for path in [*filter(None, [environ.get('SWIFT_CONFIG_FILE')]), *files]
    )
    return {given.name for settings in (words, *several) for given in settings}


def from_values(kind: type[C], values: Mapping[str, Any], vocabulary: Vocabulary, source: str = 'python') -> C:
    """The configuration that Python values ask for, flag name -> value. Raises ConfigError as ``parse`` does."""
    report = Report()
    reader = _Reader(kind, vocabulary, report)
    reader.take([Given(name, (value,), name, source) for name, value in values.items()])
    return _complete(kind(), reader)


def settle(config: C, vocabulary: Vocabulary) -> C:
    """Check and complete a configuration that somebody built from its groups. Raises ConfigError."""
    flags = flags_of(type(config))
    changed = {name: config.get(name) for name, flag in flags.items() if config.get(name) != flag.default}
    return from_values(type(config), changed, vocabulary)


def _complete(config: C, reader: _Reader) -> C:
    """Put the values in, inherit from the checkpoint, derive, check."""
    report = reader.report
    given = reader.values.keys() | report.broken
    reader.put_into(config)
    try:
        reader.take(config.inherit(given))
    except ConfigError as error:
        report.problems += error.problems
    reader.put_into(config)
    config.derive()
    for names, text in config.check():
        about = set(names.split())
        if report.unread and all(config.sources.get(name, 'default') == 'default' for name in about):
            continue  # what is missing may stand in the file that could not be read
        if names and not report.broken & about:
            report.problem(text, *about)
        elif not names and not report.problems:
            report.problem(text)
    if report.problems:
        raise ConfigError(report.problems)
    config.notes[:0] = [*report.notes, *reader.summary()]
    return config


class _Reader:
    """Reads settings, the later ones winning. Knows three kinds of flags: built, idle, and later."""

    def __init__(self, kind: type[Config], vocabulary: Vocabulary, report: Report):
        self.verb, self.flags, self.vocabulary, self.report = kind.verb, flags_of(kind), vocabulary, report
        self.rows = vocabulary.rows(kind.like or kind.verb)
        self.values: dict[str, tuple[Any, str]] = {}
        self.idle: dict[str, str] = {}

    def knows(self, name: str) -> bool:
        """Whether this verb has such a flag, built or not."""
        return name in self.flags or name in self.rows

    def takes_mapping(self, name: str) -> bool:
        """Whether the value of this flag may be a mapping."""
        return self.knows(name) and self._kind_and_default(name)[0].base == 'json'

    def take(self, settings: list[Given]) -> None:
        """Read each setting into ``values``, or report what is wrong with it."""
        for setting in settings:
            if (given := self._resolve(setting)) is not None:
                self._read(given)

    def put_into(self, config: Config) -> None:
        """Move what was read into the configuration."""
        for name, (value, source) in self.values.items():
            config.put(name, value, source)
        self.values.clear()

    def summary(self) -> list[str]:
        """One line that names every flag that was accepted without effect."""
        named = ', '.join(f'{name} ({note})' for name, note in self.idle.items())
        return [f'accepted without effect here: {named}'] if named else []

    def _kind_and_default(self, name: str) -> tuple[Any, Any]:
        """A row that has a kind stands for the whole flag and goes before the group's."""
        for row in self.rows.get(name, ()):
            if row.kind is not None:
                return row.kind, row.default
        return self.flags[name].kind, self.flags[name].default

    def _resolve(self, given: Given) -> Given | None:
        """The setting under the flag's own name and value; None if there is nothing to read."""
        if not self.knows(given.name):
            alias, negated = self.vocabulary.aliases.get(given.name), self._negated(given)
            if negated is not None:
                return negated
            if alias is None or not (alias.flag is None or self.knows(alias.flag)):
                return self._unknown(given)
            return self._renamed(given, alias)
        values = self.vocabulary.values.get(given.name, {})
        text = given.text
        if text is None or text not in values:
            return given
        value = values[text]
        return None if value is None else given.renamed(given.name, value)

    def _negated(self, given: Given) -> Given | None:
        """``--no_x`` as ``--x false``."""
        name = given.name.removeprefix('no_')
        if name == given.name or given.raw != [] or not self.knows(name):
            return None
        return given.renamed(name, 'false') if self._kind_and_default(name)[0].base == 'bool' else None

    def _renamed(self, given: Given, alias: Alias) -> Given | None:
        if alias.flag is None:
            self.idle[given.name] = 'an old flag'
            return None
        self.report.notes.append(f'{given.label} is an old name; write {alias.flag}')
        if alias.values is None:
            return self._resolve(given.renamed(alias.flag))
        text = given.text
        if text is not None and text in alias.values:
            value = alias.values[text]
            return None if value is None else given.renamed(alias.flag, value)
        return self.report.problem(f'{given.label}: expected {" or ".join(alias.values)}', alias.flag)

    def _unknown(self, given: Given) -> None:
        known = list(dict.fromkeys([*self.flags, *self.rows]))
        near = sorted(name for name in known if name.startswith(given.name))[:3]
        hint = f'; did you mean {", ".join(near)}?' if near else did_you_mean(given.name, known)
        elsewhere = self.vocabulary.elsewhere(self.verb, given.name)
        words = set(re.findall(r'\w+', hint))
        meant = [name for name in known if name in words]
        text = f'{given.label}: no flag of swift {self.verb}'
        self.report.problem(f'{text}{elsewhere or hint}', *(() if elsewhere else meant))

    def _read(self, given: Given) -> None:
        rows = self.rows.get(given.name, [])
        later = [word for word in given.words for row in rows if word in row.values]
        if later:
            note = next(row.note for row in rows if later[0] in row.values)
            return self.report.problem(f'{given.label} {" ".join(later)}: {note or "not built yet"}', given.name)
        row = next((row for row in rows if row.kind is not None), None)
        kind, default = self._kind_and_default(given.name)
        try:
            value = given.read(kind)
        except ValueError as error:
            reason = 'has no proper value' if SECRET.search(given.name) else error
            return self.report.problem(f'{given.label}: {reason}', given.name)
        self.idle.pop(given.name, None)
        if row is None:
            self.values[given.name] = (value, given.source)
        elif value != default and row.state == 'idle':
            self.idle[given.name] = row.note
        elif value != default:
            self.report.problem(f'{given.label}: {row.note or "not built yet"}', given.name)
        return None


# --------------------------------------------------------------------------------------------------------- dump
class Dump(NamedTuple):
    """What is written beside a run: the content of args.json, and the text of config.yaml."""

    args: dict[str, Any]
    yaml: str


def dump(config: Config) -> Dump:
    """Every value of ``config`` but secrets: flat with the established names, and as YAML with the source of each."""
    args = {name: config.get(name) for name in flags_of(type(config)) if not SECRET.search(name)}
    lines = [f'# Run again: swift {config.verb} config.yaml']
    environ = {name: value for name, value in config.environ.items() if not SECRET.search(name)}
    if environ:
        lines += ['', 'ENV:', *(f'  {name}: {json.dumps(value)}' for name, value in environ.items())]
    written: set[str] = set()
    for group, cls in groups_of(type(config)).items():
        names = [n for n, flag in flags_of(type(config)).items() if group in flag.groups and n in args.keys() - written]
        if not names:
            continue
        written.update(names)
        lines += ['', f'# {(cls.__doc__ or group).strip()}']
        settings = [(f'{name}: {_yaml(args[name])}', config.sources[name]) for name in names]
        width = min(60, max(len(setting) for setting, _ in settings))
        lines += [f'{setting:<{width}}  # {source}' for setting, source in settings]
    return Dump({'verb': config.verb, **args}, '\n'.join(lines) + '\n')


def _yaml(value: Any) -> str:
    """A value in YAML that both YAML 1.1 and 1.2 read alike."""
    if isinstance(value, str) and BARE.fullmatch(value) and value.lower() not in AMBIGUOUS:
        return value
    if isinstance(value, float) and 'e' in repr(value) and '.' not in repr(value):
        return repr(value).replace('e', '.0e')
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r'[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]', lambda found: f'\\u{ord(found[0]):04x}', text)
