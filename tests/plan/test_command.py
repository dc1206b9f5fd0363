"""swift plan end to end on the tiny model: measured in true processes."""

import json
from pathlib import Path

import pytest

from swift.commands import beside, planned
from swift.commands import plan as command
from swift.commands.configs import resolve
from tests import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(planned, '_code', str)  # somebody may be at work on it


def plan_of(capsys, *words):
    """Exit code and JSON of a plan."""
    code = command.plan_main([*words, '--json', 'true', '--max_length', '64', '--max_tokens_per_batch', '128'])
    return code, json.loads(capsys.readouterr().out)


def test_a_plan_needs_nothing_but_config_json_and_is_remembered(tmp_path, capsys):
    whole = tiny.folder(tmp_path / 'whole', num_hidden_layers=4)
    bare = tmp_path / 'bare'
    bare.mkdir()
    (bare / 'config.json').write_bytes((whole / 'config.json').read_bytes())
    code, first = plan_of(capsys, '--model', str(bare))
    assert code == 0
    assert first['fits']
    assert first['owners']['interpreter'] > 100 * 2**20
    assert sum(first['owners'].values()) == pytest.approx(first['phases']['forward and backward'], rel=0.02)
    assert set(first['phases']) == {'load', 'forward and backward', 'optimizer step', 'save'}
    assert first['ladder'] == []
    assert len(list((tmp_path / 'cache' / 'plan').glob('*.json'))) == 1
    assert plan_of(capsys, '--model', str(bare))[1]['peak'] == first['peak'], 'measured again'


def test_a_plan_that_does_not_fit_ends_with_77_and_a_ladder(tmp_path, capsys, monkeypatch):
    model, rows = tiny.folder(tmp_path / 'model', num_hidden_layers=4), tiny.rows(tmp_path / 'rows.jsonl')
    monkeypatch.setattr(command, 'rungs', lambda get: list(command_rungs(get))[:1])
    code, found = plan_of(capsys, '--model', str(model), '--dataset', str(rows), '--memory', '1MiB')
    assert code == 77
    assert not found['fits']
    assert [step['change'] for step in found['ladder']] == ['--selective_recompute true']
    assert found['seconds'] > 0


command_rungs = command.rungs


def test_the_flags_are_those_of_sft_and_data_may_be_left_out(tmp_path):
    config = resolve('plan', ['--model', 'some/model', '--tuner_type', 'full', '--memory', '24GiB'])
    assert config.plan.memory == '24GiB'
    assert config.tuner.tuner_type == 'full'


# ---------------------------------------------------------------------------------------------------------- two models
@pytest.fixture
def models(tmp_path):
    """A student, and a teacher twice as deep."""
    return tiny.folder(tmp_path / 'student'), tiny.folder(tmp_path / 'teacher', num_hidden_layers=4)


def bytes_of(folder):
    """Of the weights without norms."""
    from safetensors import safe_open

    with safe_open(folder / 'model.safetensors', 'pt') as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys() if 'norm' not in name)  # noqa: SIM118


def second(*words):
    return beside.second(resolve('plan', [*map(str, words)]), Path(words[1]))


def test_full_training_of_preferences_holds_a_reference_beside_the_model(models, capsys):
    student, _ = models
    flags = ('--model', str(student), '--tuner_type', 'full', '--torch_dtype', 'float32')
    alone, both = plan_of(capsys, *flags)[1], plan_of(capsys, *flags, '--rlhf_type', 'dpo')[1]
    assert both['owners']['reference'] == bytes_of(student)
    assert both['peak'] == alone['peak'] + bytes_of(student)
    assert 'reference' not in alone['owners']


def test_a_teacher_is_counted_by_its_own_size_and_type(models):
    student, teacher = models
    flags = ('--model', student, '--rlhf_type', 'gkd', '--teacher_model', teacher)
    assert second(*flags) == beside.Second('teacher', bytes_of(teacher))
    assert second(*flags, '--torch_dtype', 'bfloat16') == beside.Second('teacher', bytes_of(teacher) // 2)


@pytest.mark.parametrize(
    'flags',
    [
        ('--rlhf_type', 'dpo'),  # adapters are switched off
        ('--rlhf_type', 'dpo', '--tuner_type', 'full', '--reference_free', 'true'),
        ('--rlhf_type', 'dpo', '--tuner_type', 'full', '--precompute_ref_log_probs', 'true'),
        ('--rlhf_type', 'orpo', '--tuner_type', 'full'),
        ('--rlhf_type', 'gkd', '--teacher_model_server', 'http://localhost:1', '--gkd_logits_topk', '8'),
        (),
    ],
)
def test_what_needs_no_second_model_has_none(models, flags):
    assert second('--model', models[0], *flags) is None


def test_a_reference_of_its_own_is_counted_with_adapters_too(models):
    student, other = models
    flags = ('--model', student, '--rlhf_type', 'kto', '--ref_model', other)
    assert second(*flags) == beside.Second('reference', bytes_of(other))
