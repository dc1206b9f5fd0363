"""swift infer, merge-lora and export as people call them: by argument lists, on tiny models."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from swift import export_main, infer_main, merge_lora
from swift.core.errors import ConfigError, DataError, RequestError
from swift.export.parity import ParityError
from tests import seeing, tiny
from tests.adapters import adapter

GREEDY = ['--max_new_tokens', '6', '--temperature', '0']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A model folder, a checkpoint with its args.json, another adapter, and rows."""
    home = tmp_path_factory.mktemp('infer')
    model = tiny.folder(home / 'tiny')
    run = home / 'v0-20260101-000000'
    checkpoint = adapter(run / 'checkpoint-3', tiny.model())
    (run / 'args.json').write_text(json.dumps({'verb': 'sft', 'model': str(model), 'system': 'Be brief.'}))
    tiny.tokenizer().save_pretrained(checkpoint)
    adapter(home / 'other', tiny.model(), seed=1)
    tiny.rows(home / 'rows.jsonl', 12)
    tiny.rows(run / 'val_dataset.jsonl', 4)
    return home


@pytest.fixture
def stdin(monkeypatch):
    """Sets what comes over a pipe."""
    return lambda text: monkeypatch.setattr(sys, 'stdin', io.StringIO(text))


def lines(path):
    """The rows of a file, without what says which batch they belong to."""
    rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    return [{name: value for name, value in row.items() if name != 'run'} for row in rows]


def test_a_prompt_is_answered_on_standard_output(world, capsys):
    rows = infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', 'Who are you?', *GREEDY])
    assert capsys.readouterr().out == ''.join(f'{row["response"]}\n' for row in rows)
    assert [row['messages'][0]['content'] for row in rows] == ['Hi', 'Who are you?']


def test_streamed_answers_are_the_same(world, capsys):
    rows = infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', *GREEDY])
    assert infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', '--stream', 'true', *GREEDY]) == rows


def test_a_prompt_may_come_over_a_pipe(world, stdin):
    wanted = infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi\nthere', *GREEDY])
    stdin('Hi\nthere\n')
    assert infer_main(['--model', str(world / 'tiny'), *GREEDY]) == wanted
    stdin('\n')
    with pytest.raises(ConfigError, match='standard input is empty'):
        infer_main(['--model', str(world / 'tiny'), *GREEDY])


def test_every_answer_matches_the_expression_that_is_given(world):
    words = ['--model', str(world / 'tiny'), '--prompt', 'Hi', 'Who are you?', *GREEDY]
    rows = infer_main([*words, '--structured_outputs_regex', '[0-9]{3}-[ab]+!'])
    assert all(re.fullmatch('[0-9]{3}-[ab]*!?', row['response']) for row in rows)
    with pytest.raises(RequestError, match='invalid regex'):
        infer_main([*words, '--structured_outputs_regex', '[0-9'])


def test_a_checkpoint_needs_no_other_flag(world):
    short = infer_main(['--adapters', str(world / 'v0-20260101-000000' / 'checkpoint-3'), '--prompt', 'Hi', *GREEDY])
    spelt = ['--model', str(world / 'tiny'), '--adapters', f'x={world}/v0-20260101-000000/checkpoint-3']
    spelt += ['--system', 'Be brief.', '--load_args', 'false', '--prompt', 'Hi']
    assert infer_main([*spelt, *GREEDY]) == short
    assert infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', *GREEDY]) != short


def test_a_dataset_is_answered_in_order_and_appended_to_a_file(world, tmp_path, capsys):
    result = tmp_path / 'deep' / 'out.jsonl'
    flags = ['--model', str(world / 'tiny'), '--val_dataset', str(world / 'rows.jsonl'), '--result_path', str(result)]
    rows = infer_main([*flags, '--max_batch_size', '5', *GREEDY])
    assert lines(result) == rows
    assert len(rows) == 12
    for row, asked in zip(rows, lines(world / 'rows.jsonl'), strict=True):
        assert list(row) == ['response', 'labels', 'logprobs', 'messages']
        assert row['labels'] == asked['messages'][-1]['content']
        assert row['messages'][:-1] == asked['messages'][:-1]
        assert row['messages'][-1] == {'role': 'assistant', 'content': row['response']}
    assert '12 answers' in capsys.readouterr().out
    assert infer_main([*flags, '--val_dataset_sample', '3', '--write_batch_size', '2', *GREEDY]) == rows[:3]
    assert 'after the answers that it holds already' in capsys.readouterr().out
    assert lines(result) == [*rows, *rows[:3]]


def test_drawn_answers_do_not_depend_on_the_batch(world, tmp_path):
    flags = ['--model', str(world / 'tiny'), '--val_dataset', str(world / 'rows.jsonl'), '--temperature', '1']
    flags += ['--max_new_tokens', '6', '--result_path', str(tmp_path / 'out.jsonl')]
    alone = infer_main([*flags, '--max_batch_size', '1'])
    assert infer_main([*flags, '--max_batch_size', '-1']) == alone
    assert infer_main([*flags, '--max_batch_size', '-1', '--seed', '7']) != alone


def test_rows_that_cannot_be_answered_stand_in_the_file_with_their_reason(world, tmp_path):
    data, result = tmp_path / 'bad.jsonl', tmp_path / 'out.jsonl'
    good = {'messages': [{'role': 'user', 'content': 'Hi'}]}
    rows = [{'nothing': 1}, good, {'messages': [{'role': 'user', 'content': 'x ' * 4000}]}, good, {'messages': []}]
    data.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    with pytest.raises(DataError, match='3 of 5 rows'):
        infer_main(['--model', str(world / 'tiny'), '--val_dataset', str(data), '--result_path', str(result), *GREEDY])
    found = lines(result)
    assert ['error' in row for row in found] == [True, False, True, False, True]
    assert 'bad.jsonl:1' in found[0]['error']
    assert 'tokens' in found[2]['error']
    assert found[1]['response'] == found[3]['response']


def test_logprobs_are_written_when_asked_for(world, tmp_path):
    flags = ['--model', str(world / 'tiny'), '--val_dataset', f'{world}/rows.jsonl#2', '--logprobs', 'true']
    rows = infer_main([*flags, '--top_logprobs', '2', '--result_path', str(tmp_path / 'out.jsonl'), *GREEDY])
    assert [len(each['top_logprobs']) for each in rows[0]['logprobs']['content']] == [2] * 6


def test_answers_of_a_checkpoint_lie_beside_it(world, capsys):
    checkpoint = world / 'v0-20260101-000000' / 'checkpoint-3'
    (checkpoint / 'args.json').write_text((world / 'v0-20260101-000000' / 'args.json').read_text())
    rows = infer_main(
        ['--adapters', str(checkpoint), '--val_dataset', f'{world}/rows.jsonl#2', '--metric', 'acc', *GREEDY]
    )
    (path,) = (checkpoint / 'infer_result').iterdir()
    assert lines(path) == rows
    assert 'acc 0.0000' in capsys.readouterr().out


def test_a_terminal_gets_a_chat(world, tmp_path, monkeypatch, capsys):
    typed = iter(['Hi', '/adapter second', 'Hi', 'exit'])
    monkeypatch.setattr('builtins.input', lambda prompt: next(typed))
    monkeypatch.setattr(sys, 'stdin', type('Terminal', (io.StringIO,), {'isatty': lambda self: True})())
    adapters = ['--adapters', f'first={world}/v0-20260101-000000/checkpoint-3', f'second={world}/other']
    rows = infer_main([*adapters, '--result_path', str(tmp_path / 'chat.jsonl'), *GREEDY])
    assert lines(tmp_path / 'chat.jsonl') == rows
    assert len(rows) == 2
    assert 'adapters: base, first, second' in capsys.readouterr().out


def test_an_engine_that_is_not_installed_says_how_to_install_it(world, tmp_path, monkeypatch):
    monkeypatch.setenv('SWIFT_CACHE', str(tmp_path))
    with pytest.raises(ConfigError, match=r'--infer_backend vllm: vLLM is not installed. swift doctor --install vllm'):
        infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', '--infer_backend', 'vllm'])


@pytest.mark.parametrize('backend', ['native', 'transformers', 'pt'])
def test_old_names_of_the_native_engine_work(world, backend):
    assert infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', '--infer_backend', backend, *GREEDY])


def test_a_merged_checkpoint_answers_as_the_checkpoint_does(world, tmp_path, capsys):
    checkpoint = str(world / 'v0-20260101-000000' / 'checkpoint-3')
    folder = merge_lora(['--adapters', checkpoint])
    assert str(folder) == f'{checkpoint}-merged'
    assert 'top-1 agreement' in capsys.readouterr().out
    assert json.loads((folder / 'parity.json').read_text())['passed']
    wanted = infer_main(['--adapters', checkpoint, '--prompt', 'Hi', 'Who?', *GREEDY])
    assert infer_main(['--model', str(folder), '--prompt', 'Hi', 'Who?', *GREEDY]) == wanted
    with pytest.raises(ConfigError, match='exist_ok'):
        merge_lora(['--adapters', checkpoint])
    assert merge_lora(['--adapters', checkpoint], replace_if_exists=True) == folder
    elsewhere = export_main(['--adapters', checkpoint, '--merge_lora', 'true', '--output_dir', str(tmp_path / 'mine')])
    assert elsewhere == tmp_path / 'mine'


def test_a_merge_that_fails_its_proof_leaves_nothing(world, tmp_path, monkeypatch):
    from swift.export import merge

    monkeypatch.setattr(merge, 'merge_', lambda tuned: tuned.unload())
    flags = ['--adapters', str(world / 'v0-20260101-000000' / 'checkpoint-3'), '--output_dir', str(tmp_path / 'mine')]
    with pytest.raises(ParityError, match='mean KL'):
        merge_lora(flags)
    assert not list(tmp_path.iterdir())


def test_two_adapters_are_not_merged_at_once(world):
    with pytest.raises(ConfigError, match='one adapter'):
        merge_lora(['--adapters', f'a={world}/other', f'b={world}/other', '--model', str(world / 'tiny')])


def test_an_adapter_with_a_flipped_bit_does_not_answer(world, tmp_path):
    import shutil

    from swift.core import files
    from swift.core.errors import CorruptError

    checkpoint = tmp_path / 'checkpoint-3'
    with files.commit(checkpoint, step=3) as temp:
        shutil.copytree(world / 'v0-20260101-000000' / 'checkpoint-3', temp, dirs_exist_ok=True)
    asked = ['--model', str(world / 'tiny'), '--adapters', str(checkpoint), '--prompt', 'Hi', *GREEDY]
    assert infer_main(asked)
    weights = checkpoint / 'adapter_model.safetensors'
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptError, match='adapter_model'):
        infer_main(asked)


def test_rows_and_prompts_show_pictures(tmp_path, capsys):
    model, picture = seeing.folder(tmp_path / 'llava', 'llava'), tmp_path / 'a.png'
    picture.write_bytes(seeing.picture(1))
    asked = ['--model', str(model), *GREEDY]
    (wanted,) = infer_main([*asked, '--prompt', 'What is it?', '--images', str(picture)])
    rows = [
        {'messages': [{'role': 'user', 'content': '<image>What is it?'}], 'images': [str(picture)]},
        {'query': 'What is it?', 'images': str(picture)},
        {'query': '<image>What is it?', 'images': 'https://example.org/a.png'},
    ]
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    out = tmp_path / 'out.jsonl'
    with pytest.raises(DataError, match='1 of 3 rows could not be answered'):
        infer_main([*asked, '--val_dataset', str(tmp_path / 'rows.jsonl'), '--result_path', str(out)])
    first, second, third = lines(out)
    assert first['response'] == second['response'] == wanted['response']
    assert first['images'] == [str(picture)]
    assert third['response'] is None
    with pytest.raises(ConfigError, match='rows bring their own pictures'):
        infer_main([*asked, '--val_dataset', str(tmp_path / 'rows.jsonl'), '--images', str(picture)])


def test_pictures_for_a_model_that_takes_text_alone_are_refused_at_once(world):
    with pytest.raises(ConfigError, match='--images: tiny takes text alone'):
        infer_main(['--model', str(world / 'tiny'), '--prompt', 'Hi', '--images', 'a.png', *GREEDY])
