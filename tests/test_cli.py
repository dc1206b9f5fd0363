"""The command line as a stranger meets it: help, typos, exit codes, what is imported, and the names of Python."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import swift
from swift import cli, compat
from swift.commands.configs import CONFIGS
from swift.core.errors import Interrupted, LockedError

ROOT = Path(__file__).parents[1]
HEAVY = {'torch', 'transformers', 'numpy', 'peft', 'datasets', 'rich', 'jinja2'}
TYPO = ['sft', '--modell', 'x', '--dataset', 'rows.jsonl']


def run(*argv, **environ):
    """A fresh process of the command line: (exit code, standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, '-m', 'swift.cli', *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ},
    )
    return done.returncode, done.stdout, done.stderr


def imported_by(code):
    """Top-level modules that a fresh process has imported after ``code``."""
    text = f'import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(chr(10) + repr(sorted(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', text], capture_output=True, text=True, cwd=ROOT, check=True)
    return {name.partition('.')[0] for name in re.findall(r"'([^']+)'", done.stdout.splitlines()[-1])}


# ------------------------------------------------------------------------------------------------ help and typos
def test_the_overview_lists_every_verb_and_says_which_are_not_built():
    code, out, _ = run('--help')
    assert code == 0
    for verb in cli.VERBS:
        line = next(line for line in out.splitlines() if line.strip().startswith(f'{verb.name} '))
        assert ('(not built yet)' in line) is not verb.built


def test_verbs_that_are_built_have_a_configuration():
    assert {verb.name for verb in cli.VERBS if verb.built} == set(CONFIGS)


@pytest.mark.parametrize('argv', [['rollout'], ['megatron', 'sft', '--model', 'x'], ['web-ui'], ['eval', '--help']])
def test_a_verb_that_is_not_built_says_so_in_one_line(argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, '')
    assert err.count('\n') == 1 and 'not built yet' in err


def test_a_mistyped_verb_gets_the_nearest_one():
    code, _, err = run('stf')
    assert code == 2 and 'did you mean sft' in err


def test_problems_come_in_one_report_with_exit_code_2():
    code, _, err = run(*TYPO)
    assert code == 2
    assert err.splitlines()[0] == 'swift: 2 problems'
    assert 'did you mean model' in err and 'there is no rows.jsonl' in err


@pytest.mark.parametrize('verb', CONFIGS)
def test_every_built_verb_explains_its_flags(verb, capsys):
    assert cli.main([verb, '--help']) == 0
    out = capsys.readouterr().out
    assert f'swift {verb}' in out
    assert ' '.join(out.split()).count('[default:') == len(re.findall(r'^  --', out, re.MULTILINE)) > 0


def test_help_speaks_chinese_on_request():
    assert '用对话数据微调模型' in run('--help', SWIFT_LANG='zh')[1]
    out = run('sft', '--help', SWIFT_LANG='zh')[1]
    assert '低秩更新的秩' in out and '命令行参数' in out
    english = [line for line in out.splitlines() if re.fullmatch(r'[A-Z][a-z ,]+\.', line)]
    assert english == []


def test_the_precedence_takes_three_lines_of_the_help():
    out = run('infer', '--help')[1].splitlines()
    start = next(i for i, line in enumerate(out) if line.startswith('A value is taken from the first'))
    text = ' '.join(out[start : start + 3])
    order = [text.index(word) for word in ('flags of', 'files', 'environment', 'args.json', 'defaults')]
    assert order == sorted(order)


def test_help_and_a_typo_are_answered_within_the_time_of_a_blink():
    def seconds(*argv):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*argv)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    run('--help')  # writes the byte code
    for argv in (['--help'], TYPO):
        assert min(seconds(*argv) for _ in range(5)) < 0.15, argv


# ------------------------------------------------------------------------------------------------------ imports
@pytest.mark.parametrize(
    'code',
    [
        'import swift',
        'from swift.cli import main; main(["--help"])',
        'from swift.cli import main; main(["sft", "--help"])',
        f'from swift.cli import main; main({TYPO!r})',
        'from swift import SftArguments',
    ],
)
def test_nothing_heavy_is_imported_before_work_begins(code):
    assert imported_by(code) & HEAVY == set()


@pytest.mark.parametrize('code', ['import swift', 'from swift.cli import main; main(["sft", "--modell", "x"])'])
def test_yaml_is_not_imported_without_a_file(code):
    assert 'yaml' not in imported_by(code)


# --------------------------------------------------------------------------------------------------- exit codes
@pytest.mark.parametrize(
    ('error', 'code'),
    [(LockedError('taken'), 73), (Interrupted('saved', 143), 143), (KeyboardInterrupt(), 130), (ValueError('x'), 1)],
)
def test_errors_become_one_message_and_their_exit_code(monkeypatch, capsys, error, code):
    def fail(words):
        raise error

    monkeypatch.setattr(cli, '_run', fail)
    monkeypatch.delenv('SWIFT_DEBUG', raising=False)
    assert cli.main(['sft']) == code
    assert 'Traceback' not in capsys.readouterr().err


def test_the_traceback_shows_on_request(monkeypatch):
    monkeypatch.setenv('SWIFT_DEBUG', '1')
    with pytest.raises(swift.core.errors.ConfigError):
        cli.main(['sft'])


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f'{sys.executable} -m swift.cli sft --help | head -n 1', shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stderr == '' and done.stdout.startswith('Usage')


# --------------------------------------------------------------------------------------------------------- show
def test_show_config_prints_the_resolved_configuration(capsys):
    assert cli.main(['show', 'config', 'sft', '--model', 'a/b', '--dataset', 'c/d']) == 0
    assert re.search(r'^learning_rate: 0.0001 +# derived$', capsys.readouterr().out, re.MULTILINE)


def test_show_flags_narrows_by_verb_and_word(capsys):
    cli.main(['show', 'flags', 'infer', 'temperature', '--json'])
    rows = json.loads(capsys.readouterr().out)
    assert [row['flag'] for row in rows] == ['temperature']
    assert rows[0]['verbs'] == 'infer'


@pytest.mark.parametrize('what', ['flags', 'models', 'datasets', 'templates', 'deviations', 'names'])
def test_every_table_can_be_shown_as_text_and_markdown(what, capsys):
    assert cli.main(['show', what]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3
    assert cli.main(['show', what, '--markdown']) == 0
    assert '| --- |' in capsys.readouterr().out


def test_the_table_of_flags_in_the_documentation_is_current(capsys):
    cli.main(['show', 'flags', '--markdown'])
    assert (ROOT / 'docs' / 'flags.md').read_text() == capsys.readouterr().out, (
        'write it anew: swift show flags --markdown > docs/flags.md'
    )


# ------------------------------------------------------------------------------------------------------- python
@pytest.mark.parametrize('name', swift.EXPORTS)
def test_every_public_name_is_there(name):
    assert getattr(swift, name) is not None


@pytest.mark.parametrize('name', sorted(compat.NAMES.keys() - swift.EXPORTS.keys()))
def test_every_old_name_is_there(name):
    assert compat.load('swift.llm', name) is not None


def test_modules_of_older_scripts_are_aliases():
    from swift.infer_engine.protocol import RequestConfig
    from swift.llm import SftArguments, TrainArguments

    assert SftArguments is TrainArguments is swift.SftArguments
    assert RequestConfig is swift.RequestConfig


@pytest.mark.parametrize('module', ['swift.trainers', 'swift.rewards', 'swift.plugin'])
def test_a_name_to_come_says_what_is_not_built(module):
    with pytest.raises(ImportError, match='not built yet'):
        __import__(module, fromlist=['GRPOTrainer']).GRPOTrainer  # noqa: B018


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(AttributeError, match='did you mean sft_main'):
        swift.sft_mian  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        __import__('swift.no_such_module')
