"""Files of rows: what is a row, which number it has, and what is said of those that are broken."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import DataError, RowError
from swift.data.tables import Cursor, array, index, lines, open_table, table


def read_all(path):
    """(line, row or reason) of every row."""
    opened = open_table(path)
    block = index(opened)
    out = []
    for i in range(len(block.starts)):
        handle = block.handle(i)
        try:
            out.append((handle.line, opened.read(handle)))
        except RowError as error:
            out.append((handle.line, str(error).partition(':')[0]))
    return out


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_jsonl_counts_blank_lines_and_skips_them(tmp_path):
    path = write(tmp_path / 'a.jsonl', '{"a": 1}\n\n  \t\n{"a": 2}\n\n')
    assert read_all(path) == [(1, {'a': 1}), (4, {'a': 2})]


@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize('last', ['', 'newline'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_byte_order_marks_and_line_ends_are_not_part_of_rows(tmp_path, newline, last, mark):
    text = newline.join(['{"a": 1}', '{"a": "ü"}']) + (newline if last else '')
    assert read_all(write(tmp_path / 'a.jsonl', mark + text.encode())) == [(1, {'a': 1}), (2, {'a': 'ü'})]


def test_line_separators_of_unicode_end_no_row(tmp_path):
    row = {'text': 'a\u2028b\x85c\x0bd'}
    path = write(tmp_path / 'a.jsonl', json.dumps(row, ensure_ascii=False) + '\n')
    assert read_all(path) == [(1, row)]
    assert read_all(write(tmp_path / 'a.txt', row['text'] + '\n')) == [(1, row)]


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        (b'{"a": 1', 'bad JSON'),
        (b'{"a": 1}}', 'bad JSON'),
        (b"{'a': 1}", 'bad JSON'),
        (b'{"a": "tab\there"}', 'bad JSON'),
        (b'{"a": NaN}', 'not a finite number'),
        (b'{"a": -Infinity}', 'not a finite number'),
        (b'{"a": 1e999}', 'not a finite number'),
        (b'{"a": 123456789012345678901234567890}', 'number too large'),
        (b'{"a": ' + b'9' * 5000 + b'}', 'number too large'),
        (b'{"a": 1, "a": 2}', 'duplicate key'),
        (b'{"m": [{"role": "user", "role": "user"}]}', 'duplicate key'),
        (b'{"a": "\xff\xfe"}', 'invalid UTF-8'),
        (b'{"a": "\\ud800"}', 'invalid text'),
        (b'[' * 100 + b']' * 100, 'too deep'),
        (b'{"a":' * 200_000 + b'1' + b'}' * 200_000, 'too deep'),
        (b'\x00\x00\x00', 'bad JSON'),
    ],
)
def test_a_broken_line_spoils_itself_only(tmp_path, line, reason):
    path = write(tmp_path / 'a.jsonl', b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert read_all(path) == [(1, {'a': 1}), (2, reason), (3, {'a': 2})]


def test_surrogate_pairs_and_deep_but_bounded_values_are_fine(tmp_path):
    row = {'a': '\\ud83d\\ude00', 'b': '[' * 60 + ']' * 60}
    path = write(tmp_path / 'a.jsonl', f'{{"a": "{row["a"]}", "b": {row["b"]}}}\n')
    assert read_all(path)[0][1]['a'] == '😀'


def test_a_json_array_gives_its_elements_by_number(tmp_path):
    path = write(tmp_path / 'a.json', '[{"a": "x, ] } \\" \\\\"},\n {"a": [1, {"b": "{"}]}]\n')
    assert read_all(path) == [(1, {'a': 'x, ] } " \\'}), (2, {'a': [1, {'b': '{'}]})]


def test_a_bad_element_of_an_array_spoils_itself_only(tmp_path):
    path = write(tmp_path / 'a.json', '[{"a": 1}, {"a": tru}, {"a": NaN}, {"a": 1, "a": 2}, 7, {"a": 2},]')
    assert [row for _, row in read_all(path)] == [
        {'a': 1},
        'bad JSON',
        'not a finite number',
        'duplicate key',
        7,
        {'a': 2},
        'bad JSON',  # the comma too many
    ]


@pytest.mark.parametrize('text', ['[]', ' [ \n ] ', ''])
def test_an_array_may_be_empty(tmp_path, text):
    assert read_all(write(tmp_path / 'a.json', text)) == []


@pytest.mark.parametrize(
    'text', ['[{"a": 1}, {"a": 2', '[{"a": "open}]', '[{"a": 1}] x', '[{"a": 1}]]', '[{"a": [1}]', '{"a": 1}} {"a": 2}']
)
def test_an_array_whose_rows_cannot_be_told_apart_is_refused(tmp_path, text):
    with pytest.raises(DataError, match=r'a\.json'):
        read_all(write(tmp_path / 'a.json', text))


def test_the_place_where_an_array_breaks_is_named(tmp_path):
    with pytest.raises(DataError, match='line 2 column 9'):
        read_all(write(tmp_path / 'a.json', '[{"a": 1},\n{"a": 2 "b": 3}'))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('{"a": 1}\n{"a": 2}\n', [1, 2]),  # jsonl under another name
        ('{\n "a": 1\n}\n{\n "a": 2\n}', [1, 2]),  # objects one after another
        ('{\n "a": 1\n}', [1]),
        ('{"a": 1}', [1]),
    ],
)
def test_json_files_that_are_no_array(tmp_path, text, expected):
    assert [row['a'] for _, row in read_all(write(tmp_path / 'a.json', text))] == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text('ab"\\{}[],: \n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
def test_any_array_is_cut_where_a_parser_would(tmp_path_factory, rows, indent, chunk):
    path = tmp_path_factory.mktemp('json') / 'a.json'
    path.write_text(json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array, 'CHUNK', chunk)  # borders of chunks fall everywhere
        assert [row for _, row in read_all(path)] == rows


@given(texts=st.lists(st.text('ab \t', max_size=12), max_size=8), chunk=st.integers(1, 20))
def test_any_lines_are_cut_at_their_ends(tmp_path_factory, texts, chunk):
    path = tmp_path_factory.mktemp('text') / 'a.txt'
    path.write_text('\n'.join(texts))
    expected = [(i + 1, {'text': text}) for i, text in enumerate(texts) if text.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, 'CHUNK', chunk)
        assert read_all(path) == expected


def test_csv_rows_may_span_lines_and_blank_ones_are_skipped(tmp_path):
    path = write(tmp_path / 'a.csv', 'query,response\r\nhi,"two\nlines, ""quoted"""\n\nq\u2028r,\n')
    assert read_all(path) == [
        (2, {'query': 'hi', 'response': 'two\nlines, "quoted"'}),
        (5, {'query': 'q\u2028r', 'response': None}),
    ]


@pytest.mark.parametrize(
    ('record', 'reason'),
    [
        (b'only one', 'ragged row'),
        (b'one,two,three', 'ragged row'),
        (b'"a"b,c', 'bad csv'),
        (b'\xff,b', 'invalid UTF-8'),
        (b'a\rb,c', 'bad csv'),
    ],
)
def test_a_broken_record_spoils_itself_only(tmp_path, record, reason):
    path = write(tmp_path / 'a.csv', b'query,response\na,b\n' + record + b'\nc,d\n')
    assert read_all(path) == [
        (2, {'query': 'a', 'response': 'b'}),
        (3, reason),
        (4, {'query': 'c', 'response': 'd'}),
    ]


def test_a_quote_that_is_never_closed_stops_the_file(tmp_path):
    with pytest.raises(DataError, match=r'a\.csv:3: a quote'):
        read_all(write(tmp_path / 'a.csv', 'query,response\na,b\nc,"d\ne,f\ng,h\n'))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match="'a' twice"):
        read_all(write(tmp_path / 'a.csv', 'a,b,a\n1,2,3\n'))


def test_csv_fields_longer_than_the_modules_limit_are_read(tmp_path):
    path = write(tmp_path / 'a.csv', f'text\n{"x" * 200_000}\n')
    assert len(read_all(path)[0][1]['text']) == 200_000


def test_tsv_is_cut_at_tabs(tmp_path):
    assert read_all(write(tmp_path / 'a.tsv', 'query\tresponse\na,b\tc\n')) == [(2, {'query': 'a,b', 'response': 'c'})]


def test_parquet_rows_are_found_across_row_groups(tmp_path):
    rows = [{'messages': [{'role': 'user', 'content': f'{i}'}], 'label': i} for i in range(1000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet', row_group_size=300)
    assert read_all(tmp_path / 'a.parquet') == [(i + 1, row) for i, row in enumerate(rows)]


def test_a_parquet_row_that_is_no_utf8_spoils_itself_only(tmp_path):
    column = pa.array([b'good', b'\xff\xfe', b'fine']).cast(pa.string(), safe=False)
    pq.write_table(pa.table({'text': column}), tmp_path / 'a.parquet')
    assert [row for _, row in read_all(tmp_path / 'a.parquet')] == [{'text': 'good'}, 'invalid UTF-8', {'text': 'fine'}]


@pytest.mark.parametrize(
    ('name', 'data', 'problem'),
    [
        ('a.jsonl', b'\xff\xfe{\x00', 'UTF-16'),
        ('a.jsonl', b'\x1f\x8b\x08\x00', 'gzip'),
        ('a.csv', b'PK\x03\x04....', 'zip'),
        ('a.parquet', b'not parquet', 'parquet'),
        ('a.json', b'PAR1xxxx', 'parquet'),
        ('a.xlsx', b'whatever', 'jsonl'),
    ],
)
def test_files_that_are_something_else_are_named_for_what_they_are(tmp_path, name, data, problem):
    with pytest.raises(DataError, match=problem):
        read_all(write(tmp_path / name, data))


@pytest.mark.parametrize('name', ['a.jsonl', 'a.json', 'objects.json', 'a.csv', 'a.txt', 'a.parquet'])
def test_a_scan_goes_on_from_any_row(tmp_path, name):
    rows = [{'text': f'row {i}' + ' \n"x"' * (i % 3)} for i in range(50)]
    path = tmp_path / name
    if name == 'a.parquet':
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == 'a.csv':
        path.write_text('text\n' + ''.join('"' + row['text'].replace('"', '""') + '"\n' for row in rows))
    elif name == 'a.txt':
        rows = [{'text': f'row {i}'} for i in range(50)]
        path.write_text(''.join(row['text'] + '\n' for row in rows))
    elif name == 'a.json':
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text('\n'.join(json.dumps(row, indent=1 if name == 'objects.json' else None) for row in rows))
    opened = open_table(path)
    block = index(opened)
    for i in (0, 1, 17, 49):
        handle = block.handle(i)
        rest = [
            (each.handle(j).line, opened.read(each.handle(j)))
            for each in opened.scan(Cursor(handle.start, handle.line))
            for j in range(len(each.starts))
        ]
        assert [row for _, row in rest] == rows[i:]
        assert rest[0][0] == handle.line
    assert list(opened.scan(block.after)) == []


def test_a_large_file_is_told_by_samples_and_time_of_change(tmp_path, monkeypatch):
    monkeypatch.setattr(table, 'WHOLE', 10)
    monkeypatch.setattr(table, 'SAMPLE', 8)
    path = write(tmp_path / 'a.jsonl', '{"a": 1}\n' * 10)
    before = table.file_fingerprint(path)
    assert table.file_fingerprint(path) == before
    write(path, '{"a": 2}\n' * 10)
    assert table.file_fingerprint(path) != before
