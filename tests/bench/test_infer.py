"""The comparison of answering: what a run says, the tables that are made of runs, and a whole one with a tiny model."""

import json

import pytest

from swift.bench import infer
from swift.commands import bench
from tests import tiny


def run(side, *, seconds, answers, ok=True):
    times = [[0.5 + 0.1 * i for i in range(len(answers[0]))] for _ in answers]
    result = {'answers': answers, 'times': times, 'seconds': seconds, 'cpu': 2 * seconds, 'ready': 3.0}
    facts = {'streams': 2, 'repeat': 0, 'error': '' if ok else 'exit code 1', 'versions': {'torch': '2'}}
    return {'side': side, 'ok': ok, 'peak_rss': 2**30, 'result': result, **facts}


def found(*runs, **agreement):
    return {'runs': runs, 'new_tokens': 4, 'agreement': agreement}


def test_a_run_becomes_rates_and_times():
    figures = infer.figures(run('ours', seconds=4.0, answers=[[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert figures['tokens/s'] == 2
    assert figures['CPU s per 1000 tokens'] == 1000
    assert round(figures['first token ms']) == 500
    assert round(figures['gap p50 ms']) == round(figures['gap p99 ms']) == 100
    assert figures['peak GiB'] == 1


def test_the_table_names_ratios_agreement_and_failures():
    wanted = [[1, 2, 3, 4], [5, 6, 7, 8]]
    made = found(
        run('ours', seconds=1.0, answers=[[1, 2, 3, 4], [5, 6, 9, 9]]),
        run('transformers generate', seconds=4.0, answers=wanted),
        run('vllm', seconds=1.0, answers=wanted, ok=False),
        ours=0.99,
    )
    heading, *rows = infer.rows_of(made, 2)
    at = {name: i for i, name in enumerate(heading)}
    shown = {row[at['side']]: row for row in rows}
    assert shown['transformers generate'][at['ours is']] == '4.00 x'
    assert shown['ours'][at['same until']] == '75%'
    assert shown['vllm'][at['tokens/s']] == 'failed'
    (section,) = infer.sections(made)
    assert any('vllm, 2 streams: exit code 1' in note for note in section.notes)


@pytest.mark.parametrize(('share', 'wrong'), [(0.96, False), (0.94, True)])
def test_answers_that_are_not_the_models_fail(share, wrong):
    runs = [run(side, seconds=1.0, answers=[[1, 2, 3, 4]]) for side in ('ours', 'ours, no guesses')]
    made = found(*runs) | {'agreement': {'ours': share, 'ours, no guesses': 0.99}}
    assert infer.wrong(made) is wrong
    assert any('DISAGREES' in note for note in infer.sections(made)[-1].notes) is wrong


def test_prompts_are_cut_to_one_length():
    class Letters:
        def __call__(self, text, **_):
            return {'input_ids': [ord(each) for each in text]}

    made = infer.prompts(Letters(), ['abcdefghij' * 30], 4)
    assert {len(prompt) for prompt in made} == {infer.PROMPT_TOKENS}
    assert len({tuple(prompt) for prompt in made}) > 1


def test_every_side_has_a_driver():
    assert all((infer.DRIVERS / side.driver).is_file() for side in infer.SIDES)


def test_a_tiny_model_answers_beside_transformers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(infer, 'QUICK_STREAMS', (3,))
    monkeypatch.setattr(infer, 'SIDES', [side for side in infer.SIDES if side.name in ('ours', infer.PLAIN)])
    model = tiny.folder(tmp_path / 'model', dtype='bfloat16')
    words = ['infer', '--quick', '--model', str(model), '--threads', '1', '--output_dir', str(tmp_path / 'out')]
    code = bench.main([*words, '--dataset', str(tiny.rows(tmp_path / 'rows.jsonl'))])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert '3 streams, 64 new tokens each' in printed and 'likeliest after the same beginning' in printed
    (report,) = (tmp_path / 'out').glob('*/report.json')
    assert json.loads(report.read_text(encoding='utf-8'))['agreement']['ours'] >= infer.AGREE
    assert (report.parent / 'report.md').is_file()
