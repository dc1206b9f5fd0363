"""Documents are run, not believed: commands parse, rows convert, YAML resolves, imports and links lead somewhere."""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from swift import cli
from swift.commands.configs import CONFIGS, VOCABULARY, kind_for
from swift.core.config import asked, parse
from swift.core.types import Origin
from swift.data.convert import Reading, convert

ROOT = Path(__file__).parents[2]
MADE_UP = 'model: HuggingFaceTB/SmolLM2-135M-Instruct\ndataset: swift/self-cognition\n'
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), ROOT / 'swift/data/builtin/README.md'])


def blocks(language: str) -> list:
    """Every fenced block of a language, with where it stands."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding='utf-8')
        for block in re.finditer(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
            line = text[: block.start()].count('\n') + 1
            found.append(pytest.param(block[1], id=f'{page.relative_to(ROOT)}:{line}'))
    return found


def commands() -> list:
    """Every ``swift`` command line of the shell blocks."""
    lines = [(block.id, line) for block in blocks('bash') for line in block.values[0].replace('\\\n', ' ').splitlines()]
    return [pytest.param(line, id=f'{where} {line[:40]}') for where, line in lines if line.startswith('swift ')]


def resolve(words: list[str], folder: Path):
    """The configuration of a command line, with made-up files where it names files of the reader's."""
    for word in words:
        if word.endswith(('.jsonl', '.csv', '.yaml')) or '.csv#' in word:
            path = folder / word.partition('#')[0]
            path.write_text(MADE_UP if path.suffix == '.yaml' else '', encoding='utf-8')
        elif (place := word.rpartition('=')[2]).startswith('output/') and place.endswith('/last'):
            path = folder / place
            path.mkdir(parents=True, exist_ok=True)
            (path / 'args.json').write_text('{"model": "HuggingFaceTB/SmolLM2-135M-Instruct"}', encoding='utf-8')
            (path / 'adapter_config.json').write_text('{}', encoding='utf-8')
    return parse(kind_for(words[0], asked(words[1:], VOCABULARY, {})), words[1:], VOCABULARY, {})


@pytest.mark.parametrize('line', commands())
def test_commands_in_documents_are_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    if words[0] == 'show':
        words = words[2:] if words[1] == 'config' else []
    elif words[0] in ('bench', 'audit'):  # their words are no files
        words = [words[0], *itertools.dropwhile(lambda word: not word.startswith('--'), words)]
    else:
        assert words[0] in {verb.name for verb in cli.VERBS if verb.built}
    if words and not {'--help', '--resume_from_checkpoint'}.intersection(words):  # resuming needs a run
        resolve(words, tmp_path)


@pytest.mark.parametrize('block', blocks('jsonl'))
def test_rows_in_documents_convert(block):
    for number, line in enumerate(block.splitlines(), 1):
        sample = convert(json.loads(line), Origin('docs', number), Reading())
        assert sample.messages or sample.text
        assert not sample.extra


@pytest.mark.parametrize('block', blocks('yaml'))
def test_yaml_in_documents_resolves(block, tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text(block, encoding='utf-8')
    parse(CONFIGS['sft'], [str(path)], VOCABULARY, {})


@pytest.mark.parametrize('block', blocks('python'))
def test_python_in_documents_imports_names_that_exist(block):
    import importlib

    compile(block, 'docs', 'exec')
    for module, names in re.findall(r'^from (swift\S*) import (.+)$', block, re.MULTILINE):
        for name in names.split(','):
            assert hasattr(importlib.import_module(module), name.strip())


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r'\]\(([^)#:]+)\)', page.read_text(encoding='utf-8')):
        assert (page.parent / target).exists(), target


def test_every_page_is_there_in_both_languages():
    english = {page.name for page in ROOT.glob('docs/*.md')} - {'flags.md', 'tested.md'}
    assert english == {page.name for page in ROOT.glob('docs/zh/*.md')}
    for page in english:
        text = {language: (ROOT / 'docs' / language / page).read_text(encoding='utf-8') for language in ('.', 'zh')}
        assert text['.'].count('```') == text['zh'].count('```')


def test_flags_md_is_what_swift_show_prints(capsys):
    from swift.commands import show

    show.main(['flags', '--markdown'])
    assert (ROOT / 'docs/flags.md').read_text(encoding='utf-8') == capsys.readouterr().out


def test_workflows_are_valid_yaml():
    for path in ROOT.glob('.github/workflows/*.yml'):
        assert yaml.safe_load(path.read_text(encoding='utf-8'))['jobs']
