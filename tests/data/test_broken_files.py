"""Hand-broken rows of every format, in every kind of file, through the whole room: the good ones are used, each bad one
is named by its line, and nothing is counted twice or lost."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift import data
from swift.core.errors import DataError
from swift.data.args import DataArgs

from .bytes_template import encode

USER, ANSWER = {'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}

# format -> a good row, and rows that a hand may have broken
ROWS = {
    'messages': (
        {'messages': [USER, ANSWER]},
        [
            {'messages': []},
            {'messages': None},
            {'messages': [USER]},
            {'messages': [USER, {'role': 'assistant'}]},
            {'messages': [USER, {'role': 'assistent', 'content': 'a'}]},
            {'messages': [USER, {'role': 'assistant', 'content': ['a', 5]}]},
            {'messages': {'user': 'q'}},
            {'message': [USER, ANSWER]},
        ],
    ),
    'query-response': (
        {'query': 'q', 'response': 'a', 'history': [['x', 'y']]},
        [
            {'query': 'q'},
            {'query': 'q', 'response': None},
            {'query': 'q', 'response': ''},
            {'query': ['q'], 'response': 'a'},
            {'query': 'q', 'response': 3},
            {'query': 'q', 'response': 'a', 'history': [['x']]},
            {'qeury': 'q', 'respone': 'a'},
        ],
    ),
    'alpaca': (
        {'instruction': 'q', 'input': '', 'output': 'a'},
        [
            {'instruction': 'q', 'input': ''},
            {'instruction': 'q', 'input': '', 'output': None},
            {'instruction': None, 'input': '', 'output': None},
            {'instruction': 'q', 'input': {'x': 1}, 'output': 'a'},
            {'instruction': 'q', 'input': '', 'output': ['a', 'b']},
        ],
    ),
    'sharegpt': (
        {'conversations': [{'from': 'human', 'value': 'q'}, {'from': 'gpt', 'value': 'a'}]},
        [
            {'conversations': []},
            {'conversations': 'q a'},
            {'conversations': [{'from': 'human', 'value': 'q'}]},
            {'conversations': [{'from': 'human', 'value': 'q'}, {'from': 'gpt', 'value': None}]},
            {'conversations': [{'from': 'human', 'value': 'q'}, {'from': 'bard', 'value': 'a'}]},
            {'conversations': [{'value': 'q'}, {'from': 'gpt', 'value': 'a'}]},
        ],
    ),
    'text': ({'text': 'a document'}, [{'text': None}, {'text': ''}, {'text': 5}, {'text': ['a']}, {'txt': 'a'}]),
    'preference': (
        {'messages': [USER, ANSWER], 'rejected_response': 'b'},
        [
            {'messages': [USER, ANSWER], 'rejected_response': 5},
            {'messages': [USER, ANSWER], 'rejected_messages': []},
            {'prompt': 'q', 'chosen': 'a', 'rejected': None},
            {'chosen': 'a', 'rejected': 'b'},
        ],
    ),
    'kto': (
        {'messages': [USER, ANSWER], 'label': True},
        [{'messages': [USER, ANSWER], 'label': 'good'}, {'messages': [USER, ANSWER], 'label': float('nan')}],
    ),
    'retrieval': (
        {'messages': [USER], 'positive_messages': [[ANSWER]], 'negative_messages': [[USER]]},
        [
            {'messages': [USER], 'positive_messages': [ANSWER]},
            {'messages': [USER], 'positive_messages': [[]]},
            {'messages': [USER], 'positive_messages': 'a'},
        ],
    ),
    'tools': (
        {'tools': '[{"name": "f"}]', 'messages': [USER, {'role': 'tool_call', 'content': '{"name": "f"}'}]},
        [
            {'tools': 'f', 'messages': [USER, ANSWER]},
            {'tools': '[{"name": "f"}]', 'messages': [USER, {'role': 'tool_call', 'content': 'f()'}]},
            {'tools': '[{}]', 'messages': [USER, ANSWER]},
        ],
    ),
}


def write_jsonl(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return list(range(1, len(rows) + 1))


def write_json(path, rows):
    path.write_text(json.dumps(rows, indent=2))
    return list(range(1, len(rows) + 1))


def write_csv(path, rows):
    """What is no text is written as JSON, as exports do. Numbers keep empty rows from being blank lines."""
    rows = [{'id': str(i), **row} for i, row in enumerate(rows)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    quoted = lambda value: '"' + value.replace('"', '""') + '"'
    cell = lambda value: '' if value is None else quoted(value if isinstance(value, str) else json.dumps(value))
    lines = [','.join(names)] + [','.join(cell(row.get(name)) for name in names) for row in rows]
    path.write_text('\n'.join(lines) + '\n')
    return list(range(2, len(rows) + 2))


def write_parquet(path, rows):
    """Columns that hold different types are written as JSON text, since parquet has none."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else json.dumps(value) for value in values])
    pq.write_table(pa.table(columns), path, row_group_size=50)
    return list(range(1, len(rows) + 1))


WRITERS = {'.jsonl': write_jsonl, '.json': write_json, '.csv': write_csv, '.parquet': write_parquet}


def load(path, tmp_path, **flags):
    args = DataArgs(dataset=[str(path)], store_dir=str(tmp_path / 'store'), lint='off', **flags)
    return data.batches(data.load(args).train, encode, args, fingerprint='bytes', batch_size=1).account


@pytest.mark.parametrize('kind', ROWS)
@pytest.mark.parametrize('suffix', ['.jsonl', '.json'])
def test_broken_rows_of_every_format_are_named_and_the_others_used(tmp_path, kind, suffix):
    good, bad = ROWS[kind]
    rows = [good] * 150 + bad + [good] * 150
    path = tmp_path / f'rows{suffix}'
    numbers = WRITERS[suffix](path, rows)
    account = load(path, tmp_path, max_rejected=0.5)
    assert account.used == 300
    assert [each.origin.row for each in account.rejected] == numbers[150 : 150 + len(bad)]
    assert all(each.origin.path == str(path) and ': ' in each.reason for each in account.rejected)
    with pytest.raises(DataError, match='--strict allows none'):
        load(path, tmp_path, strict=True)
    if len(bad) > 0.01 * len(rows):
        with pytest.raises(DataError, match=f'of {len(rows)} rows cannot be used'):
            load(path, tmp_path)


@pytest.mark.parametrize('suffix', ['.csv', '.parquet'])
@pytest.mark.parametrize('kind', ['query-response', 'alpaca', 'text', 'messages', 'sharegpt', 'kto'])
def test_rows_of_tables_are_read_from_their_text_and_broken_ones_named(tmp_path, kind, suffix):
    """A table has every column in every row: null and absent are the same there, and so are 5 and "5" in csv."""
    good, bad = ROWS[kind]
    bad = [row for row in bad if set(row) <= set(good) and not _fine_as_text(row)]
    rows = [good] * 100 + bad + [good] * 100
    path = tmp_path / f'rows{suffix}'
    numbers = WRITERS[suffix](path, rows)
    account = load(path, tmp_path, max_rejected=0.5)
    assert account.used == 200
    assert [each.origin.row for each in account.rejected] == numbers[100 : 100 + len(bad)]
    assert bad


def _fine_as_text(row):
    """Whether a table turns the row into a good one: a number or a list under a text column becomes its text."""
    texts = [row.get(name) for name in ('query', 'response', 'instruction', 'input', 'output', 'text')]
    return any(isinstance(value, int | list | dict) for value in texts)


def test_formats_may_be_mixed_in_one_file(tmp_path):
    rows = [good for good, _ in ROWS.values()] * 3
    write_jsonl(tmp_path / 'a.jsonl', rows)
    account = load(tmp_path / 'a.jsonl', tmp_path)
    assert (account.used, account.rejected) == (len(rows), [])


def test_a_folder_of_every_kind_of_file_is_read_in_order_of_name(tmp_path):
    folder = tmp_path / 'rows'
    folder.mkdir()
    for i, (suffix, write) in enumerate(WRITERS.items()):
        write(folder / f'{i}{suffix}', [{'query': f'q{i}', 'response': 'a'}] * 5)
    (folder / '9.txt').write_text('one document\n\nanother\n')
    rows = data.load(DataArgs(dataset=[str(folder)], dataset_shuffle=False)).train
    assert [row.get('text') or row['messages'][0]['content'] for row in rows] == [
        *[f'q{i}' for i in range(4) for _ in range(5)],
        'one document',
        'another',
    ]


def test_bytes_that_are_broken_everywhere_are_accounted_for(tmp_path):
    good = b'{"query": "q", "response": "a"}\r\n'
    bad = [
        b'\xff\xfe\xfd',
        b'{"query": "q", "response": NaN}',
        b'{"query": "q", "query": "q"}',
        b'[' * 9999,
        b'null',
        b'{',
    ]
    path = tmp_path / 'a.jsonl'
    path.write_bytes(
        b'\xef\xbb\xbf' + good * 100 + b'\r\n \t\r\n' + b''.join(each + b'\n' for each in bad) + good * 100
    )
    account = load(path, tmp_path, max_rejected=0.1)
    assert (account.read, account.used) == (206, 200)
    assert [each.origin.row for each in account.rejected] == list(range(103, 109))
    reasons = [each.reason.partition(':')[0] for each in account.rejected]
    assert reasons == ['invalid UTF-8', 'not a finite number', 'duplicate key', 'too deep', 'wrong type', 'bad JSON']
