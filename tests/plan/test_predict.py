"""From two rehearsals to a run: lines in the layers, the worst micro-batch, and what the ladder changes."""

import pytest

from swift.core.errors import ConfigError
from swift.plan import report
from swift.plan.ladder import cut, rungs
from swift.plan.predict import ACTIVATIONS, LOAD, STEP, WEIGHTS, Rehearsed, predict
from swift.plan.shrink import depth, depths, shrunk
from swift.plan.work import Shape, Work, assumed

WORK = Work(((Shape((300, 200), 450),),), tokens=10_000, steps=20)


def rehearsed(layers):
    """A model whose layers weigh 10 bytes each, keep 5 for the backward pass, and take a millisecond a token."""
    return Rehearsed(
        layers,
        before=50,
        phases={LOAD: 100 + 10 * layers, STEP: 200 + 15 * layers},
        owners={WEIGHTS: 100 + 10 * layers, ACTIVATIONS: 5 * layers},
        mapped=7 * layers,
        seconds=0.002 + 0.001 * layers,
    )


def test_everything_is_linear_in_the_layers():
    plan = predict([rehearsed(2), rehearsed(4)], layers=30, base=1000, work=WORK)
    assert plan.phases == {LOAD: 1400, STEP: 1650}
    assert plan.peak == 1650
    assert plan.owners == {'interpreter': 1000, WEIGHTS: 400, ACTIVATIONS: 150}
    assert plan.mapped == 210
    assert plan.speed == pytest.approx(1 / 0.032)
    assert plan.seconds == pytest.approx(320)


def test_the_verdict_says_how_much_of_how_much_and_how_long():
    plan = predict([rehearsed(2), rehearsed(4)], layers=30, base=3 * 2**30, work=WORK)
    assert report.verdict(plan, 24 * 2**30) == 'fits: 3.0 of 24.0 GiB, 5 min 20 s to go'
    assert report.verdict(plan, 2**30).startswith('does not fit: 3.0 of 1.0 GiB')


@pytest.mark.parametrize(
    ('text', 'size'),
    [('24GiB', 24 * 2**30), ('16 GB', 16 * 10**9), ('512MiB', 2**29), ('8', 8 * 2**30), ('1.5g', 3 * 2**29)],
)
def test_sizes_are_read_with_their_units(text, size):
    assert report.size(text) == size


def test_a_size_that_is_none_is_refused_with_an_example():
    with pytest.raises(ConfigError, match='24GiB'):
        report.size('plenty')


def test_without_data_full_micro_batches_are_assumed():
    assert assumed(longest=512, micro=2048, rows=1).worst == Shape((512,) * 4, 2044)
    assert assumed(longest=512, micro=None, rows=3).worst == Shape((512,) * 3, 1533)
    assert assumed(longest=4096, micro=2048, rows=1).worst == Shape((4096,), 4095)


def test_a_shrunk_config_keeps_its_width_and_shortens_what_has_an_entry_for_each_layer():
    config = {'text_config': {'num_hidden_layers': 4, 'hidden_size': 64, 'layer_types': ['a', 'b', 'a', 'b']}}
    small = shrunk(config, 2)
    assert small == {'text_config': {'num_hidden_layers': 2, 'hidden_size': 64, 'layer_types': ['a', 'b']}}
    assert depth(config) == 4
    assert len(config['text_config']['layer_types']) == 4


def test_wide_models_are_rehearsed_with_fewer_layers():
    assert depths({'num_hidden_layers': 12, 'hidden_size': 512}) == (12,)
    assert depths({'num_hidden_layers': 30, 'hidden_size': 576}) == (5, 15)
    assert depths({'num_hidden_layers': 32, 'hidden_size': 4096}) == (1, 2)
    assert depths({'num_hidden_layers': 1, 'hidden_size': 64}) == (1,)
    assert depths({}) == ()


def test_a_model_that_was_rehearsed_whole_is_taken_as_it_was():
    plan = predict([rehearsed(6)], layers=6, base=None, work=WORK)
    assert plan.phases == {LOAD: 50 + 160, STEP: 50 + 290}


def test_a_smaller_micro_batch_holds_whole_sequences():
    assert cut(Shape((600, 300, 100), 800), 500) == Shape((600,), 480)
    assert cut(Shape((300, 300, 200, 200), 500), 500) == Shape((300, 200), 250)


def test_the_ladder_offers_only_what_would_change_the_run():
    flags = {'tuner_type': 'full', 'max_tokens_per_batch': 2048, 'optim': 'adamw_torch_fused'}
    titles = [rung.title for rung in rungs(flags.get)]
    assert titles == [
        '--max_tokens_per_batch 1024', '--max_tokens_per_batch 512', '--selective_recompute true',
        '--gradient_checkpointing true', '--optim adamw_bf16', '--tuner_type lora', '--quant_bits 4',
    ]  # fmt: skip
    small = {'tuner_type': 'lora', 'max_tokens_per_batch': 256, 'gradient_checkpointing': True, 'quant_bits': 4}
    assert not list(rungs(small.get))
