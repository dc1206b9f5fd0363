"""swift inspect: what it prints is what training would see."""

import json

import pytest

from swift.commands.inspect import inspect_main
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
