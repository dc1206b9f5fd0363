"""The physical limit, computed by hand for a small model."""

from pytest import approx

from swift.bench import limits

PROBE = {
    'parameters': 130, 'attention': 8, 'adapter': 5, 'bandwidth': 1000.0,
    'body': {'parameters': 100, 'lora': 50.0, 'full': 40.0}, 'head': {'parameters': 30, 'lora': 20.0, 'full': 10.0},
}  # fmt: skip


def test_lora_multiplies_twice_and_the_head_only_for_supervised_tokens():
    a = 2 * 8 * 16
    seconds = (4 * 100 + 3 * a + 6 * 5) / 50 + 4 * 0.5 * 30 / 20
    assert limits.tokens_per_second(PROBE, 'lora', supervised=0.5, reach=16, step=64) == approx(1 / seconds)


def test_full_training_multiplies_three_times_and_moves_its_optimizer_once_a_step():
    a = 2 * 8 * 16
    seconds = (6 * 100 + 3 * a) / 40 + 6 * 30 / 10 + 14 * 130 / 1000 / 64
    assert limits.tokens_per_second(PROBE, 'full', supervised=0.5, reach=16, step=64) == approx(1 / seconds)
