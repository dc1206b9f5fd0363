"""swift inspect: what it prints is what training would see."""

import json

import pytest

from swift.commands.inspect import inspect_main
from swift.core.errors import ConfigError
from tests import tiny


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder with a tokenizer and nothing else, and rows of which two are broken."""
    home = tmp_path_factory.mktemp('inspect')
    tiny.tokenizer().save_pretrained(home / 'model')
    good = [
        {'messages': [{'role': 'user', 'content': f'q{i}'}, {'role': 'assistant', 'content': 'yes ' * (i + 1)}]}
        for i in range(6)
    ]
    lines = [json.dumps(row) for row in good]
    lines[2:2] = ['{"messages": [', json.dumps({'messages': [{'role': 'user', 'content': 'no answer'}]})]
    (home / 'rows.jsonl').write_text('\n'.join(lines) + '\n')
    return home


def objects(world, capsys, *flags):
    flags = ['--model', world / 'model', '--dataset', world / 'rows.jsonl', '--json', '--max_rejected', 1, *flags]
    assert inspect_main([str(flag) for flag in flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_has_one_object_a_row_with_an_entry_for_each_token(world, capsys):
    rows = objects(world, capsys)
    assert len(rows) == 8
    assert [i for i, row in enumerate(rows) if 'error' in row] == [2, 3]
    first = rows[0]
    assert ''.join(first['tokens']) == '<|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\nyes <|im_end|>\n'
    trained = ''.join(token for token, weight in zip(first['tokens'], first['weight'], strict=True) if weight)
    assert trained == 'yes <|im_end|>'
    assert len({len(first[key]) for key in ('input_ids', 'tokens', 'weight', 'role', 'segment', 'position')}) == 1


def test_every_rejected_row_is_named_with_its_reason(world, caplog):
    flags = ['--model', world / 'model', '--dataset', world / 'rows.jsonl', '--rows', 1, '--max_rejected', 1]
    with caplog.at_level('INFO', 'swift'):
        assert inspect_main([str(flag) for flag in flags]) == 0
    assert 'rows.jsonl:3: bad JSON: Expecting value at column 15' in caplog.text
    assert 'rows.jsonl:4: missing answer' in caplog.text


def test_packs_keep_each_row_whole_and_positions_restart(world, capsys, tmp_path):
    flags = ['--packing', 'true', '--packing_length', 64, '--max_length', 64, '--store_dir', tmp_path, '--lint', 'off']
    packs = [row for row in objects(world, capsys, *flags) if 'error' not in row]
    assert sum(max(pack['segment']) + 1 for pack in packs) == 6
    assert all(len(pack['input_ids']) <= 64 for pack in packs)
    for pack in packs:
        starts = [i for i, position in enumerate(pack['position']) if position == 0]
        assert [pack['segment'][i] for i in starts] == list(range(len(starts)))
        assert all(pack['weight'][i] == 0 for i in starts)


def test_overlong_rows_say_why_they_are_left_out(world, capsys):
    rows = objects(world, capsys, '--max_length', 25)
    assert any('max_length 25' in row.get('error', '') for row in rows)


def test_any_template_file_can_be_tried(world, capsys, tmp_path):
    template = tmp_path / 'mine.jinja'
    template.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}<|im_end|>{% endfor %}")
    first = objects(world, capsys, '--template', template)[0]
    assert ''.join(first['tokens']) == '[user] q0<|im_end|>[assistant] yes<|im_end|>'


def test_the_page_shows_every_token_and_every_rejected_row(world, capsys, tmp_path):
    page = tmp_path / 'page.html'
    flags = ['--model', world / 'model', '--dataset', world / 'rows.jsonl', '--html', page, '--max_rejected', 1]
    inspect_main([str(flag) for flag in flags])
    text = page.read_text()
    assert text.count('<pre>') == 6
    assert text.count('class="error"') == 2
    assert '&lt;|im_end|&gt;' in text


# -------------------------------------------------------------------------------------------------------------- groups
TURNS = [
    {'role': 'user', 'content': 'What is the capital of France, please?'},
    {'role': 'assistant', 'content': 'Paris.'},
]
ROWS = {
    'dpo': {'messages': TURNS, 'rejected_response': 'Rome, I think.'},
    'kto': {'messages': TURNS, 'label': False},
    'prm': {'prompt': 'What is 1 + 1, please?', 'completions': ['Add.', 'Done.'], 'labels': [True, False]},
}
NAMES = {
    'dpo': ['prompt, shared by 2', 'chosen', 'rejected'],
    'kto': ['prompt', 'answer (label 0)'],
    'prm': ['prompt, shared by 2', 'step 1 (label 1)', 'step 2 (label 0)'],
}


@pytest.fixture
def looked(world, capsys, tmp_path):
    """What inspect says of one row, with these flags."""

    def look(row, *flags):
        (tmp_path / 'rows.jsonl').write_text(json.dumps(row) + '\n')
        return objects(world, capsys, '--dataset', tmp_path / 'rows.jsonl', *flags)[0]

    return look


@pytest.mark.parametrize('method', ROWS)
def test_a_shared_prompt_is_shown_once_and_what_goes_on_after_it_has_its_name(looked, method):
    row = looked(ROWS[method], '--rlhf_type', method)
    assert row['parts'] == NAMES[method]
    text = ''.join(row['tokens'])
    assert text.count('please?') == 1
    places = [
        [p for p, s in zip(row['position'], row['segment'], strict=True) if s == i] for i in range(len(row['parts']))
    ]
    assert [each[0] for each in places] == [0, *[len(places[0])] * (len(places) - 1)]  # all go on after the prompt


def test_both_answers_of_a_pair_carry_loss_and_the_prompt_does_not(looked):
    row = looked(ROWS['dpo'], '--rlhf_type', 'dpo')
    facts = zip(row['tokens'], row['weight'], row['segment'], strict=True)
    trained = dict.fromkeys(row['parts'], '')
    for token, weight, segment in facts:
        trained[row['parts'][segment]] += token if weight else ''
    assert trained == {NAMES['dpo'][0]: '', 'chosen': 'Paris.<|im_end|>', 'rejected': 'Rome, I think.<|im_end|>'}


def test_a_yaml_that_names_a_method_is_enough(looked, tmp_path):
    (tmp_path / 'run.yaml').write_text('rlhf_type: dpo\nbeta: 0.2\n')
    assert looked(ROWS['dpo'], '--config', tmp_path / 'run.yaml')['parts'] == NAMES['dpo']


def test_a_flag_of_alignment_without_a_method_is_told_what_is_missing(world):
    with pytest.raises(ConfigError, match=r'--beta: no flag of swift inspect; .*give --rlhf_type too'):
        inspect_main(['--model', str(world / 'model'), '--dataset', str(world / 'rows.jsonl'), '--beta', '0.1'])


def test_documents_of_a_query_have_their_labels(looked):
    row = looked(
        {'query': 'capital of France, please', 'positive': 'Paris', 'negative': ['Rome', 'Oslo']},
        '--task_type', 'reranker',
    )  # fmt: skip
    assert row['parts'][-3:] == ['document 1 (label 1)', 'document 2 (label 0)', 'document 3 (label 0)']
