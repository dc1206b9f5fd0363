"""Load that does not wait: its moments, what is counted, and a run against a server of our own on a tiny model."""

import sys
from itertools import pairwise

import pytest

from swift.bench import serve, sheet
from swift.commands import bench
from swift.core.errors import ConfigError
from swift.engines.fake import FakeEngine
from swift.serve.gate import Gate
from tests import tiny
from tests.serve.running import house, running


def answer(at, *, pieces, tokens, late=0.0):
    facts = {'status': 200, 'ok': True, 'retry_after': False, 'error': ''}
    return {'at': at, 'sent': at + late, 'pieces': pieces, 'tokens': tokens, 'end': pieces[-1], **facts}


def refusal(at, *, status=429, after=0.01, told=True):
    facts = {'ok': False, 'pieces': [], 'tokens': 0, 'error': 'busy'}
    return {'at': at, 'sent': at, 'status': status, 'end': at + after, 'retry_after': told, **facts}


def test_arrivals_are_as_many_as_the_rate_says_and_the_same_for_a_seed():
    moments = serve.arrivals(50.0, 100.0, seed=1)
    assert abs(len(moments) - 5000) < 5 * 5000**0.5
    assert moments == sorted(moments) == serve.arrivals(50.0, 100.0, seed=1) != serve.arrivals(50.0, 100.0, seed=2)
    gaps = [b - a for a, b in pairwise(moments)]
    assert 0.9 < (sum(gap**2 for gap in gaps) / len(gaps)) / (2 * (sum(gaps) / len(gaps)) ** 2) < 1.1  # exponential


def test_times_count_from_the_moment_a_request_was_to_be_sent():
    run = {'requests': [answer(1.0, pieces=[3.0, 3.5], tokens=2, late=1.5)], 'cpu': 0.1, 'seconds': 10.0}
    figures = serve.figures(run, 4.0)
    assert figures['first']['p50'] == 2000 and figures['gap']['p50'] == 500 and figures['late']['p99'] == 1500


def test_only_tokens_of_whole_answers_that_came_in_time_count():
    cut = answer(1.0, pieces=[2.0, 2.5], tokens=2) | {'ok': False, 'error': 'IncompleteReadError'}
    whole = answer(0.0, pieces=[0.5, 2.0, 3.0, 9.0], tokens=8)  # two of four pieces lie in [1, 4)
    figures = serve.figures({'requests': [whole, cut], 'cpu': 1.0, 'seconds': 10.0}, 4.0)
    assert figures['tokens/s'] == pytest.approx(2 * 2 / 3)
    assert (figures['answered'], figures['failed']) == (1, 1) and figures['cpu'] == 0.1


def test_honest_refusals_are_no_failures():
    asked = [answer(0.0, pieces=[2.0], tokens=1), refusal(1.0), refusal(1.0, status=503, told=False)]
    figures = serve.figures({'requests': [*asked, refusal(2.0, status=500)], 'cpu': 0.0, 'seconds': 1.0}, 4.0)
    assert (figures['refused'], figures['retry_after'], figures['failed']) == (2, 1, 1)
    assert figures['refusal']['p99'] == pytest.approx(10) and figures['errors'] == ['500 busy']


def measured(plan, folder, capsys):
    """What a short run finds, and what it prints."""
    found = serve.measure(plan, print)
    sheet.write(found, folder, serve.sections(found), serve.panels(found), sys.stdout)
    assert (folder / 'report.md').is_file()
    return found, capsys.readouterr().out


def test_overload_is_refused_told_and_leaves_the_canary_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve, 'WORKERS', (2,))
    with running(house(FakeEngine(step_seconds=0.02), gate=Gate(2, 4))) as server:
        plan = serve.Plan(server.url, None, ['one two', 'three'], tmp_path, 1.0, max_tokens=8, multiples=(20,))
        found, printed = measured(plan, tmp_path, capsys)
    (load,) = found['open']
    assert not serve.wrong(found) and 'of capacity' in printed, printed
    assert load['refused'] == load['retry_after'] > 0 and load['answered'] + load['refused'] == load['asked']
    assert found['model'] == 'fake' and found['memory'] is None


@pytest.mark.slow
def test_a_server_of_ours_is_loaded_and_its_memory_is_told(tmp_path, capsys):
    model = tiny.folder(tmp_path / 'model', dtype='bfloat16')
    with serve.deployed(str(model), tmp_path, 1, 300.0) as (url, pid):
        plan = serve.Plan(url, None, ['one two', 'three'], tmp_path, 1.0, pid, max_tokens=8, multiples=(1, 10))
        found, printed = measured(plan, tmp_path, capsys)
    assert not serve.wrong(found), printed
    assert found['memory'] > 2**27 and found['model'] == 'model'


@pytest.mark.parametrize('words', [['serve'], ['serve', '--quick', '--full']])
def test_how_long_must_be_said(words):
    with pytest.raises(ConfigError, match='--quick'):
        bench.main(words)
