"""The main job of the script: what it decides is pure and checked here; all of it runs on a tiny model."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from swift.commands import first_run
from swift.commands.configs import CONFIGS, VOCABULARY
from swift.commands.first_run import Job, command, compare, mix, next_commands, plan_steps, speaker, wizard
from swift.core.config import parse
from swift.plan.advise import Choice
from tests import tiny

CHOICES = [
    Choice('tuner_type', 'lora', ''),
    Choice('torch_dtype', 'bfloat16', ''),
    Choice('packing_length', '1024', ''),
    Choice('gradient_checkpointing', 'false', ''),
    Choice('quant_bits', 'none', ''),
]


@pytest.mark.parametrize(
    ('speed', 'seconds', 'steps'),
    [
        (500, 200, first_run.ENOUGH // 1024),  # fast enough: no more than is enough
        (100, 200, 11),  # 60 % of 20,000 tokens
        (1, 10, 4),  # never nothing
        (100, -50, 4),
    ],
)
def test_tokens_are_capped_by_time_and_by_what_is_enough(speed, seconds, steps):
    assert plan_steps(speed, seconds, 1024) == steps


def test_the_mix_holds_the_tokens_that_were_asked_for():
    rows = {name: int(count) for name, _, count in (entry.partition('#') for entry in mix(40_000))}
    tokens = sum(count * first_run.TOKENS_PER_ROW[name] for name, count in rows.items())
    assert 40_000 <= tokens <= 44_000
    assert rows['swift/self-cognition'] > 2 * 128  # each identity row is seen more than twice


@pytest.mark.parametrize('tuner_type', ['lora', 'full'])
def test_the_printed_command_is_one_that_swift_sft_understands(tuner_type):
    job = Job(tuner_type=tuner_type, model_name=('小黄', 'Xiao Huang'))
    config = parse(CONFIGS['sft'], command(job, CHOICES, 40, 1024), VOCABULARY, {})
    assert config.train.max_steps == 40
    assert config.data.packing_length == 1024
    assert config.data.model_name == ['小黄', 'Xiao Huang']
    assert config.tuner.tuner_type == tuner_type


def test_a_model_that_must_be_quantised_is():
    choices = [choice if choice.flag != 'quant_bits' else Choice('quant_bits', '4', '') for choice in CHOICES]
    assert parse(CONFIGS['sft'], command(Job(), choices, 4, 512), VOCABULARY, {}).model.quant_bits == 4


def test_data_of_the_user_replace_the_mix_and_keep_the_cap():
    words = command(Job(dataset=('mine.jsonl',)), CHOICES, 12, 512)
    assert 'swift/self-cognition' not in ' '.join(words)
    assert words[words.index('--max_steps') + 1] == '12'


def test_each_question_stands_over_its_two_answers():
    lines = list(compare(['Who are you?'], ['I am SmolLM.'], ['I am Little Hammer.']))
    assert lines[0].strip() == 'Who are you?'
    assert lines[1].index('SmolLM') < lines[1].index('│') < lines[1].index('Hammer')


@pytest.mark.parametrize(
    ('tuner_type', 'verbs'), [('lora', ['infer', 'merge-lora', 'sft']), ('full', ['infer', 'sft'])]
)
def test_it_ends_with_the_commands_to_go_on(tuner_type, verbs):
    rows = next_commands(Job(tuner_type=tuner_type), Path('output/first/v0-1/checkpoint-9'), speaker('en'))
    assert [line.split()[1] for _, line in rows] == verbs
    assert 'output/first/v0-1/last' in rows[0][1]


def test_the_wizard_asks_and_an_empty_answer_keeps_the_default(monkeypatch, capsys):
    monkeypatch.setattr('sys.stdin', io.StringIO("\nmine.jsonl 'my other.csv#50'\nfull\n小黄 'Xiao Huang'\n\n90\n"))
    job = wizard(Job(), speaker('zh'))
    assert job == replace(
        Job(),
        dataset=('mine.jsonl', 'my other.csv#50'),
        tuner_type='full',
        model_name=('小黄', 'Xiao Huang'),
        seconds=90.0,
    )
    assert '模型的名字' in capsys.readouterr().out


def test_every_text_is_there_in_both_languages():
    assert all(len(texts) == 2 and all(texts) for texts in first_run.TEXTS.values())


def test_the_whole_job_runs_on_a_tiny_model(tmp_path, monkeypatch, capsys):
    model = tiny.folder(tmp_path / 'model')
    monkeypatch.setattr(first_run, 'ENOUGH', 1024)
    job = ['--model', str(model), '--output_dir', str(tmp_path / 'out'), '--language', 'zh', '--seconds', '40']
    assert first_run.main(job) == 0
    said = capsys.readouterr().out
    assert '同样的问题' in said
    assert said.count('│') >= len(first_run.QUESTIONS)
    assert list(tmp_path.glob('out/v0-*/last/adapter_model.safetensors'))


def test_an_error_is_one_message_and_the_exit_code_of_its_kind(tmp_path, capsys):
    assert first_run.main(['--model', str(tmp_path / 'nothing here')]) == 2
    assert 'no such file' in capsys.readouterr().err


def test_training_stops_when_the_time_is_up_and_keeps_what_was_learned(tmp_path, monkeypatch, capsys):
    model, rows = tiny.folder(tmp_path / 'model'), tiny.rows(tmp_path / 'rows.jsonl')
    monkeypatch.setattr(first_run, 'LEAST', 1)
    words = command(Job(str(model), (str(rows),), output_dir=str(tmp_path / 'out')), CHOICES, 100_000, 64)
    words += ['--lint', 'off', '--logging_steps', '1000', '--save_steps', '1000000']
    checkpoint = first_run._train(words, 1, speaker('en'))
    assert (checkpoint / 'adapter_model.safetensors').exists()
    assert 0 < int(checkpoint.name.removeprefix('checkpoint-')) < 100_000
    assert 'time is up' in capsys.readouterr().out
