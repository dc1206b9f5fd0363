"""Batches of answers that are stopped go on where they were, and never mix with others."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from swift import infer_main
from swift.commands import infer
from swift.core.errors import ConfigError, LockedError, UnavailableError
from tests import tiny
from tests.adapters import adapter

ROWS = 40
GREEDY = ['--max_new_tokens', '24', '--temperature', '0']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    home = tmp_path_factory.mktemp('batch')
    tiny.folder(home / 'tiny')
    tiny.rows(home / 'rows.jsonl', ROWS)
    return home


@pytest.fixture(scope='module')
def whole(world):
    """The answers of a run that nobody stopped."""
    return infer_main(flags(world, world / 'whole.jsonl'))


def flags(world, result, *more):
    data = ['--val_dataset', str(world / 'rows.jsonl'), '--result_path', str(result)]
    return ['--model', str(world / 'tiny'), *data, '--write_batch_size', '1', *GREEDY, *more]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def places(path):
    return [row['run']['row'] for row in lines(path)]


def failing_after(count, error):
    """``_answered`` that ends with an error after so many rows."""
    original = infer._answered

    def failing(*args):
        for i, row in enumerate(original(*args)):
            if i == count:
                raise error
            yield row

    return failing


def stopped(world, result, monkeypatch, count, *more):
    """A run that somebody stops after so many rows."""
    with monkeypatch.context() as patch:
        patch.setattr(infer, '_answered', failing_after(count, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            infer_main(flags(world, result, *more))


def test_a_run_that_is_killed_goes_on_where_it_was(world, whole, tmp_path, capsys):
    result = tmp_path / 'out.jsonl'
    command = [sys.executable, '-m', 'swift.cli', 'infer', *flags(world, result, '--max_batch_size', '1')]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not result.exists() or result.read_bytes().count(b'\n') < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = result.read_bytes().count(b'\n')
    assert 3 <= done < ROWS
    with result.open('a') as out:
        out.write('{"response": "torn')  # what a crash in the middle of a line leaves
    assert infer_main(flags(world, result)) == whole
    assert f'{done} of {ROWS} rows are answered; going on after them' in capsys.readouterr().out
    assert places(result) == list(range(1, ROWS + 1))
    assert [row['response'] for row in lines(result)] == [row['response'] for row in whole]


def test_drawn_answers_are_the_same_with_and_without_a_stop(world, tmp_path, monkeypatch):
    drawn = ('--temperature', '1', '--seed', '5')
    wanted = infer_main(flags(world, tmp_path / 'whole.jsonl', *drawn))
    stopped(world, tmp_path / 'out.jsonl', monkeypatch, 7, *drawn)
    assert infer_main(flags(world, tmp_path / 'out.jsonl', *drawn)) == wanted


def test_a_batch_that_is_complete_is_followed_by_another(world, whole, tmp_path, capsys):
    result = tmp_path / 'out.jsonl'
    for _ in range(2):
        assert infer_main(flags(world, result)) == whole
    assert 'after the answers that it holds already' in capsys.readouterr().out
    assert places(result) == [*range(1, ROWS + 1)] * 2


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (('--temperature', '1'), 'other settings'),
        (('--system', 'Be brief.'), 'other settings'),
        (('--val_dataset_sample', '30'), 'other data'),
        (('--adapters', '{home}/law'), 'another model or adapter'),
    ],
)
def test_answers_of_another_batch_are_not_mixed_in(world, tmp_path, monkeypatch, more, said):
    if not (world / 'law').exists():
        adapter(world / 'law', tiny.model())
    result = tmp_path / 'out.jsonl'
    stopped(world, result, monkeypatch, 3)
    before = result.read_bytes()
    with pytest.raises(ConfigError, match=f'3 of {ROWS} answers of a batch with {said}'):
        infer_main(flags(world, result, *(word.format(home=world) for word in more)))
    assert result.read_bytes() == before
    assert len(infer_main(flags(world, result, '--max_batch_size', '3', '--metric', 'acc'))) == ROWS


def test_changed_rows_are_seen(world, tmp_path, monkeypatch):
    home = tmp_path / 'home'
    home.mkdir()
    (home / 'tiny').symlink_to(world / 'tiny')
    rows = tiny.rows(home / 'rows.jsonl', ROWS).read_text().splitlines()
    stopped(home, tmp_path / 'out.jsonl', monkeypatch, 3)
    (home / 'rows.jsonl').write_text('\n'.join([*rows[:-1], rows[0]]) + '\n')
    with pytest.raises(ConfigError, match='other data'):
        infer_main(flags(home, tmp_path / 'out.jsonl'))


def test_without_a_path_the_newest_stopped_batch_of_these_flags_goes_on(world, whole, tmp_path, monkeypatch):
    (tmp_path / 'model').symlink_to(world / 'tiny')
    monkeypatch.chdir(tmp_path)
    unnamed = lambda *more: [word for word in flags(world, 'x', *more) if word not in ('--result_path', 'x')]
    with monkeypatch.context() as patch:
        patch.setattr(infer, '_answered', failing_after(5, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            infer_main(unnamed())
    (path,) = (tmp_path / 'result' / 'tiny' / 'infer_result').iterdir()
    other = path.with_name('20200101-000000.jsonl')
    other.write_text('{"response": "of an older file"}\n')
    assert infer_main(unnamed()) == whole
    assert places(path) == list(range(1, ROWS + 1))
    assert sorted(path.parent.iterdir()) == [other, path]


def test_an_engine_that_dies_ends_the_run_and_its_rows_are_asked_again(world, whole, tmp_path, monkeypatch):
    from swift.engines.native.engine import NativeEngine

    result, original, asked = tmp_path / 'out.jsonl', NativeEngine.stream, []

    def dying(self, request):
        asked.append(request)
        if len(asked) > 6:
            raise UnavailableError('the engine died')
        return original(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(NativeEngine, 'stream', dying)
        with pytest.raises(UnavailableError, match='died'):
            infer_main(flags(world, result))
    assert places(result) == [1, 2, 3, 4, 5, 6]
    assert infer_main(flags(world, result)) == whole


def test_two_runs_do_not_write_to_one_file(world, tmp_path):
    with (tmp_path / 'out.jsonl').open('a') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match='another process appends'):
            infer_main(flags(world, tmp_path / 'out.jsonl'))


def test_lines_that_are_missing_are_noticed(world, tmp_path, monkeypatch):
    result = tmp_path / 'out.jsonl'
    stopped(world, result, monkeypatch, 4)
    result.write_text(''.join(result.read_text().splitlines(True)[1:]))
    with pytest.raises(ConfigError, match='lines of its last batch are missing'):
        infer_main(flags(world, result))
