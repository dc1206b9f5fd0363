"""The order of runs, what a report says, and a whole comparison with a plain loop on a tiny model."""

import json
import sys

import pytest

from swift.bench import report
from swift.bench.args import BenchArgs
from swift.bench.cells import CELLS, choose
from swift.bench.compare import folder, order
from swift.bench.peers import SIDES
from swift.commands import bench
from swift.core.errors import ConfigError
from tests import tiny


def done(loss=2.0, *, supervised=10, seconds=1.0, ok=True):
    steps = [
        {'step': i, 'tokens': 100, 'seconds': seconds, 'cpu': 1.0, 'supervised': supervised, 'loss': loss}
        for i in (1, 2, 3)
    ]
    facts = {'peak_rss': 2**30, 'first_step': 1.0, 'load': [0, 0], 'versions': {'torch': '2'}, 'result': None}
    return {'ok': ok, 'error': '' if ok else 'exit code 1', 'steps': steps, **facts}


def found(**sides):
    cell = {'title': 'LoRA', 'kind': 'train', 'packing': False, 'tuner': 'lora', 'steps': 3}
    rows = {'count': 5, 'mean': 20.0, 'dropped': 1, 'reach': 30.0}
    load = [[0.1, 0, 0], [0.2, 0, 0]]
    return {'cells': {'a': {'cell': cell, 'rows': rows, 'sides': sides}}, 'probes': [], 'load': load, 'threads': 1}


def test_sides_run_forwards_then_backwards():
    assert [(n, side.name) for n, side in order(SIDES[:2], 3)] == [
        (0, 'ours'), (0, 'ms-swift'), (1, 'ms-swift'), (1, 'ours'), (2, 'ours'), (2, 'ms-swift'),
    ]  # fmt: skip


def test_quick_takes_less_than_full_and_flags_change_the_numbers():
    quick, full = choose(BenchArgs(quick=True)), choose(BenchArgs(full=True))
    assert len(quick) < len(full) == len(CELLS) - len(choose(BenchArgs(full=True), 'dpo'))
    assert choose(BenchArgs(full=True, cells=['lora-natural'], steps=7, max_length=99))[0].steps == 7


def test_a_measurement_goes_on_until_its_report_is_written(tmp_path):
    flags = BenchArgs(quick=True)
    first = folder(tmp_path, flags)
    assert folder(tmp_path, flags) == first != folder(tmp_path, BenchArgs(full=True))
    (first / 'report.json').touch()
    assert folder(tmp_path, flags) != first


def test_equal_losses_are_fine_and_ratios_are_printed(tmp_path, capsys):
    assert report.write(found(ours=[done()], plain=[done(2.01, seconds=2.0)]), tmp_path, sys.stdout) == 0
    printed = capsys.readouterr().out
    assert '2.00 (2.00-2.00)' in printed and 'first loss: plain 2.0100, ours 2.0000' in printed
    assert json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))['cells']['a']['losses']


def test_losses_that_disagree_fail_and_say_how_the_masks_differ(tmp_path, capsys):
    assert report.write(found(ours=[done()], plain=[done(2.1, supervised=13)]), tmp_path, sys.stdout) == 1
    assert 'first loss DISAGREES: plain 2.1000, ours 2.0000, +3 supervised tokens' in capsys.readouterr().out


def test_a_peer_that_fails_is_told_and_one_that_is_faster_stands_first(tmp_path, capsys):
    sides = {'ours': [done()], 'plain': [done(seconds=0.5)], 'trl': [done(ok=False)]}
    assert report.write(found(**sides), tmp_path, sys.stdout) == 0
    printed = capsys.readouterr().out
    assert printed.index('plain') < printed.index('ours  ') and 'trl: exit code 1' in printed


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['sfft'], 'did you mean sft'),
        (['sft'], '--quick'),
        (['sft', 'more', '--quick'], 'expected flags'),
        (['sft', '--quick', '--cells', 'lora-naturel'], 'did you mean lora-natural'),
        (['gpu', '--device', 'cuda:99'], 'no such GPU'),
    ],
)
def test_a_wrong_command_line_says_what_to_do(words, said):
    with pytest.raises(ConfigError, match=said):
        bench.main(words)


def test_three_steps_beside_a_plain_loop_have_the_same_losses(tmp_path, capsys):
    model = tiny.folder(tmp_path / 'model', dtype='bfloat16')
    words = ['sft', '--quick', '--cells', 'lora-natural', '--model', str(model), '--steps', '3', '--rows_per_step', '4']
    words += ['--max_length', '256', '--repeats', '1', '--threads', '1', '--output_dir', str(tmp_path / 'out')]
    words += ['--peers', 'plain', '--peer_python', f'plain={sys.executable}']
    words += ['--dataset', str(tiny.rows(tmp_path / 'rows.jsonl'))]
    code = bench.main(words)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert 'first loss: plain' in printed and 'limit by the matrix products' in printed
    (report_file,) = (tmp_path / 'out').glob('*/report.json')
    report_file.unlink()
    assert bench.main(words) == 0  # every run is there already
    assert 'ours, run 1' in capsys.readouterr().out


@pytest.mark.slow
def test_pairs_are_compared_with_trl_and_with_ourselves(tmp_path, capsys):
    model, rows = tiny.folder(tmp_path / 'model', dtype='bfloat16'), tiny.rows(tmp_path / 'rows.jsonl')
    words = ['dpo', '--quick', '--cells', 'pairs-3-1', '--model', str(model), '--dataset', str(rows), '--threads', '1']
    words += ['--repeats', '1', '--max_length', '400', '--rows_per_step', '2', '--steps', '2']
    words += ['--peer_python', f'trl={sys.executable}', '--output_dir', str(tmp_path / 'out')]
    code = bench.main(words)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert 'first -logps/chosen: trl' in printed and 'pairs/s' in printed


def test_datasets_map_learns_the_same_tokens(tmp_path, capsys):
    model, rows = tiny.folder(tmp_path / 'model', dtype='bfloat16'), tiny.rows(tmp_path / 'rows.jsonl')
    words = ['sft', '--quick', '--cells', 'tokenise', '--model', str(model), '--dataset', str(rows), '--threads', '1']
    words += ['--repeats', '1', '--peer_python', f'trl={sys.executable}', '--output_dir', str(tmp_path / 'out')]
    assert bench.main(words) == 0
    printed = capsys.readouterr().out
    learnt = {line.rpartition(': ')[2] for line in printed.splitlines() if 'supervised tokens' in line}
    assert len(learnt) == 1
