"""The comparison of answering: what a run says, and the table that is made of runs."""

from pathlib import Path

from swift.bench import infer


def run(side, *, seconds, answers, ok=True):
    times = [[0.5 + 0.1 * i for i in range(len(answers[0]))] for _ in answers]
    result = {'answers': answers, 'times': times, 'seconds': seconds, 'cpu': 2 * seconds, 'ready': 3.0}
    return {'side': side, 'streams': 2, 'repeat': 0, 'ok': ok, 'error': '', 'peak_rss': 2**30, 'result': result}


def test_a_run_becomes_rates_and_times():
    found = infer.figures(run('ours', seconds=4.0, answers=[[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert found['tokens/s'] == 2
    assert found['CPU s per 1000 tokens'] == 1000
    assert round(found['first token ms']) == 500
    assert round(found['gap p50 ms']) == round(found['gap p99 ms']) == 100
    assert found['peak GiB'] == 1


def test_the_table_names_ratios_agreement_and_failures():
    wanted = [[1, 2, 3, 4], [5, 6, 7, 8]]
    runs = [
        run('ours', seconds=1.0, answers=[[1, 2, 3, 4], [5, 6, 9, 9]]),
        run('transformers generate', seconds=4.0, answers=wanted),
        run('vllm', seconds=1.0, answers=wanted, ok=False),
    ]
    heading, *rows = infer.rows_of({'runs': runs})
    at = {name: i for i, name in enumerate(heading)}
    shown = {row[at['side']]: row for row in rows}
    assert shown['transformers generate'][at['ours is']] == '4.00 x'
    assert shown['ours'][at['same answers']] == '75%'
    assert shown['vllm'][at['tokens/s']] == 'failed'


def test_prompts_are_cut_to_one_length():
    class Letters:
        def __call__(self, text, **_):
            return {'input_ids': [ord(each) for each in text]}

    made = infer.prompts(Letters(), ['abcdefghij' * 30], 4)
    assert {len(prompt) for prompt in made} == {infer.PROMPT_TOKENS}
    assert len({tuple(prompt) for prompt in made}) > 1


def test_every_side_has_a_driver():
    assert all((infer.DRIVERS / side.driver).is_file() for side in infer.SIDES)
    assert isinstance(infer.DRIVERS, Path)
