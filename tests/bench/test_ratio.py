"""From steps to figures with their uncertainty."""

from swift.bench import ratio


def run(*rates, cpu=1.0):
    steps = [{'tokens': 100, 'seconds': 100 / rate, 'cpu': cpu, 'supervised': 50, 'loss': 1.0} for rate in rates]
    return {'steps': steps, 'peak_rss': 2**30, 'first_step': 3.0, 'ok': True}


def test_the_first_two_steps_do_not_count():
    assert ratio.median([run(1, 1, 10, 20, 30)], ratio.tokens_per_second) == 20


def test_a_run_shorter_than_that_is_judged_by_its_last_step():
    assert ratio.median([run(7)], ratio.tokens_per_second) == 7


def test_processor_time_is_per_million_real_tokens():
    assert ratio.median([run(1, 1, 5, cpu=2.0)], ratio.cpu_per_million) == 2e4


def test_the_ratio_lies_in_its_interval_and_equal_steps_leave_no_doubt():
    sure = ratio.ratio([run(1, 1, 10, 10)], [run(1, 1, 5, 5)], ratio.tokens_per_second)
    assert (sure.value, sure.low, sure.high) == (2, 2, 2)
    unsure = ratio.ratio([run(1, 1, 8, 10, 12)], [run(1, 1, 4, 5, 6)], ratio.tokens_per_second)
    assert unsure.low < unsure.value < unsure.high


def test_runs_that_differ_widen_the_interval_more_than_steps_that_differ():
    theirs = [run(1, 1, 5, 5)]
    within = ratio.ratio([run(1, 1, 8, 12), run(1, 1, 8, 12)], theirs, ratio.tokens_per_second)
    between = ratio.ratio([run(1, 1, 8, 8), run(1, 1, 12, 12)], theirs, ratio.tokens_per_second)
    assert between.high - between.low >= within.high - within.low
