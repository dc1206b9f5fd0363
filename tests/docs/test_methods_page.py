"""The pages of objectives and the white paper are what the catalogue says, and lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swift.commands import methods, methods_page, show
from swift.commands.configs import CONFIGS, VOCABULARY
from swift.core.config import parse
from swift.objectives.catalog import METHODS, SYMBOLS
from swift.verify import formulas

ROOT = Path(__file__).parents[2]
PAPER = ROOT / 'docs/whitepaper'
STRENGTHS = ('args', 'dims', 'beta', 'centering')
"""What an example may set in its own way."""


@pytest.mark.parametrize(('lang', 'page'), [('en', 'docs/methods.md'), ('zh', 'docs/zh/methods.md')])
def test_the_page_is_what_swift_show_prints(lang, page, capsys, monkeypatch):
    monkeypatch.setenv('SWIFT_LANG', lang)
    show.main(['methods', '--markdown'])
    assert (ROOT / page).read_text(encoding='utf-8') == capsys.readouterr().out


def test_every_method_has_its_purpose_and_every_text_its_translation():
    assert methods_page.purposes().keys() == METHODS.keys()
    assert all(all(line.values()) for line in methods_page.purposes().values())
    texts = {meaning for _, meaning in SYMBOLS} | {each.differs for each in METHODS.values() if each.differs}
    texts |= {text for each in METHODS.values() for text in (*each.words.values(), *each.steps)}
    wordless = {text for text in texts if not re.search(r'[a-z]{3}', re.sub(r'\$[^$]*\$|--\w+', '', text))}
    assert texts - methods_page._chinese().keys() <= wordless


@pytest.mark.parametrize('name', METHODS)
def test_an_example_runs_the_method(name, tmp_path, monkeypatch):
    """Its YAML, with the flags that the page adds, asks for this very objective and kind of rows."""
    monkeypatch.chdir(tmp_path)
    file, flags = methods_page.example(METHODS[name])
    text = (ROOT / file).read_text(encoding='utf-8')
    for data in re.findall(r'my_\w+\.jsonl', text):
        (tmp_path / data).touch()
    verb = re.search(r'^#   swift (\S+) ', text, re.MULTILINE)[1]
    cfg = parse(CONFIGS[verb], [str(ROOT / file), *shlex.split(flags)], VOCABULARY, {})
    cfg.fill('problem_type', 'single_label_classification')  # else the head says it
    wanted, found = formulas.objective(METHODS[name], {}), methods.objective(cfg)
    assert type(found) is type(wanted)
    differing = {key for key, value in vars(wanted).items() if key not in STRENGTHS and vars(found)[key] != value}
    assert not differing


def test_the_paper_has_a_section_for_every_method_and_cites_what_is_listed():
    text, listed = '\n'.join(methods_page.latex()), '\n'.join(methods_page.bibliography())
    assert text.count(r'\section{') == text.count(r'\end{algorithm}') == len(METHODS)
    assert text.count('{') == text.count('}')
    cited = set(re.findall(r'\\cite\{([^}]+)\}', text))
    assert cited == set(re.findall(r'@misc\{([^,]+),', listed))
    own = (PAPER / 'foundations.tex').read_text(encoding='utf-8')
    references = (PAPER / 'references.bib').read_text(encoding='utf-8')
    assert set(re.findall(r'\\cite\{([^}]+)\}', own)) == set(re.findall(r'@misc\{([^,]+),', references))


@pytest.mark.skipif(not os.environ.get('SWIFT_TEST_TEX'), reason='builds the paper: yichuidingyin.sh test --with tex')
def test_the_paper_is_built_without_a_warning(tmp_path):
    shutil.copytree(ROOT / 'docs', tmp_path / 'docs')
    (tmp_path / 'swift').symlink_to(ROOT / 'swift')
    subprocess.run(
        ['make', '-C', tmp_path / 'docs', 'pdf', f'PYTHON={sys.executable}'], check=True, capture_output=True
    )
    log = (tmp_path / 'docs/whitepaper/build/main.log').read_text(errors='replace')
    assert (tmp_path / 'docs/whitepaper/build/main.pdf').stat().st_size > 100_000
    for fault in ('undefined', 'Missing character', 'multiply defined'):
        assert fault not in log
