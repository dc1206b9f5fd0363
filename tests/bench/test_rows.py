"""The rows that every side trains on."""

import json

import pytest

from swift.bench import rows
from swift.core.errors import DataError

TALK = [
    [{'role': 'user', 'content': f'Question {i}?'}, {'role': 'assistant', 'content': 'word ' * (i + 1) + 'end'}]
    for i in range(20)
]


def words(row):
    return len((row if isinstance(row, str) else ' '.join(message['content'] for message in row)).split())


def read(made):
    return [json.loads(line) for line in made.path.read_text(encoding='utf-8').splitlines()]


def test_rows_that_are_too_long_are_left_out_and_counted(tmp_path):
    made = rows.write(tmp_path / 'a.jsonl', 'natural', TALK, words, 10, 30)
    assert max(words(row['messages']) for row in read(made)) <= 10
    assert (made.count, made.dropped) == (30, 13)


def test_uniform_rows_all_have_the_wanted_length(tmp_path):
    made = rows.write(tmp_path / 'a.jsonl', 'uniform', TALK, words, 25, 6)
    assert {words(row['messages']) for row in read(made)} == {25}
    assert made.mean == made.reach == 25


def test_pairs_have_prompts_and_answers_of_the_wanted_lengths(tmp_path):
    both = lambda row: (
        2 * words(row['messages'][:1]) + words(row['messages'][1:]) + len(row['rejected_response'].split())
    )
    length = lambda row: both(row) if isinstance(row, dict) else words(row)
    made = rows.write(tmp_path / 'a.jsonl', 'pairs 3:1', TALK, length, 200, 4)
    for row in read(made):
        prompt, chosen, rejected = (
            len(text.split()) for text in (*(turn['content'] for turn in row['messages']), row['rejected_response'])
        )
        assert (
            chosen == rejected
            and abs(prompt / chosen - 3) < 0.2
            and row['messages'][1]['content'] != row['rejected_response']
        )
        assert 150 < prompt + chosen <= 200


def test_text_rows_are_for_pre_training(tmp_path):
    made = rows.write(tmp_path / 'a.jsonl', 'text', TALK, words, 100, 5)
    assert read(made)[0].keys() == {'text'}


def test_nothing_that_fits_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match='--max_length'):
        rows.write(tmp_path / 'a.jsonl', 'natural', TALK, words, 1, 5)


def test_shipped_rows_are_joined_to_a_spread_of_lengths():
    talk = rows.conversations([], seed=0)
    sizes = [words(row) for row in talk]
    assert max(sizes) > 5 * min(sizes)
    assert talk == rows.conversations([], seed=0)
