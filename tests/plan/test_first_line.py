"""The line of a training run that says whether it fits: a warning by estimate, a refusal only by measurement."""

import logging
from types import SimpleNamespace

import pytest

from swift.commands import planned
from swift.commands.configs import resolve
from swift.core.errors import OutOfMemory
from swift.plan.predict import STEP, Plan
from tests import tiny

SOURCE = SimpleNamespace(feed=None)  # of a stream: its rows are not known before they come


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Foresee a run with a choice of --plan and of free memory."""
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'cache'))
    model, rows = tiny.folder(tmp_path / 'model'), tiny.rows(tmp_path / 'rows.jsonl')

    def foresee(choice, room):
        monkeypatch.setattr(planned, 'room', lambda device: room)
        words = ['--model', str(model), '--dataset', str(rows), '--max_length', '64', '--plan', choice]
        planned.foresee(resolve('sft', words), model, SOURCE, 10, 'cpu')

    return foresee


def test_a_run_that_fits_says_so_and_that_it_is_an_estimate(run, capsys):
    run('warn', 2**40)
    assert 'fits: about' in capsys.readouterr().out


def test_an_estimate_only_warns(run, caplog):
    logging.getLogger('swift').propagate = True
    run('refuse', 2**20)
    assert 'does not fit' in caplog.text
    assert 'swift plan' in caplog.text


def test_what_was_measured_not_to_fit_is_refused_on_wish(run, monkeypatch):
    def measured(cfg, folder, todo, *, base):
        return Plan(base, {STEP: 2**30}, {}, 0, 0.0, todo)

    monkeypatch.setattr(planned, 'find', measured)
    with pytest.raises(OutOfMemory, match=r'1\.0 of 0\.0 GiB'):
        run('refuse', 2**20)
    run('warn', 2**20)


def test_nothing_is_said_when_it_is_off(run, capsys):
    run('off', 0)
    assert not capsys.readouterr().out
