"""The rows that come with the package are what their README says."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from swift.data.builtin import build

FILES = ('self_cognition', 'facts', 'python_docs', 'chatterbot')


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (build.HERE / f'{name}.jsonl').read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('name', FILES)
def test_every_row_is_a_question_an_answer_and_a_language(name):
    for row in rows(name):
        assert set(row) == {'query', 'response', 'tag'}
        assert row['tag'] in ('en', 'zh')
        assert all(value == value.strip() and value for value in row.values())


@pytest.mark.parametrize('name', FILES)
def test_no_question_stands_twice(name):
    questions = [row['query'] for row in rows(name) if row['query'] != 'Tell me a joke.']
    assert len(questions) == len(set(questions))


def test_identity_rows_name_the_model_or_its_author_in_both_languages():
    for tag in ('en', 'zh'):
        answers = [row['response'] for row in rows('self_cognition') if row['tag'] == tag]
        assert len(answers) >= 50
        assert all('{{NAME}}' in answer or '{{AUTHOR}}' in answer for answer in answers)


def test_no_other_row_says_who_the_model_is():
    for name in FILES[1:]:
        for row in rows(name):
            assert '{{' not in row['query'] + row['response']
            assert not any(
                word in row['response'].lower() for word in ('i am a robot', 'as a bot', '机器人', 'my processor')
            )


def test_held_out_questions_are_in_no_training_file():
    trained = {row['query'].strip('?.？。 ').lower() for name in FILES for row in rows(name)}
    held = [json.loads(line) for line in (build.HERE / 'heldout.jsonl').read_text(encoding='utf-8').splitlines()]
    assert len(held) >= 20
    assert not [row['query'] for row in held if row['query'].strip('?.？。 ').lower() in trained]


def test_the_readme_counts_the_rows_right():
    readme = (build.HERE / 'README.md').read_text(encoding='utf-8')
    for name in (*FILES, 'heldout'):
        line = next(line for line in readme.splitlines() if line.startswith(f'| `{name}.jsonl`'))
        assert f'| {len(rows(name))} |' in line


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason='the rows are made from the documentation of Python 3.11')
def test_the_made_files_are_what_the_builder_makes():
    sources = yaml.safe_load((build.HERE / 'sources.yaml').read_text(encoding='utf-8'))
    assert build.python_docs(sources['python']) == rows('python_docs')
    assert build.chatterbot(sources['chatterbot']) == rows('chatterbot')


def test_licences_lie_beside_the_rows():
    for name in ('python_docs', 'chatterbot'):
        assert len(Path(build.HERE / 'licences' / f'{name}.txt').read_text(encoding='utf-8')) > 1000


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('Return the sum and print it. Raise nothing.', 'returns the sum and prints it. It raises nothing.'),
        ('Recursively copy a tree.', 'recursively copies a tree.'),
        ('Returns a match; search again.', 'returns a match; searches again.'),
        ('Push it, then sort it.', 'pushes it, then sorts it.'),
    ],
)
def test_docstrings_are_turned_into_sentences(text, said):
    assert build.third_person(text, ['return', 'print', 'raise', 'copy', 'search', 'push', 'sort']) == said


def test_a_docstring_that_begins_with_no_verb_is_refused():
    with pytest.raises(ValueError, match='no verb'):
        build.third_person('Number of ways.', ['return'])
