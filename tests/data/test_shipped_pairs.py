"""The pairs that come with the package: what they hold, and how they are made of ranked answers."""

import json
from pathlib import Path

import pytest
import yaml

from swift.core.types import Origin
from swift.data.builtin import build_pairs
from swift.data.catalog import find
from swift.data.convert import convert

FILES = ('pairs_en', 'pairs_en_heldout', 'pairs_models', 'pairs_models_heldout', 'pairs_zh')


def samples(name):
    lines = (build_pairs.HERE / f'{name}.jsonl').read_text(encoding='utf-8').splitlines()
    return [convert(json.loads(line), Origin(name, i)) for i, line in enumerate(lines, 1)]


def opening(sample):
    """The first question."""
    return next(each.content for each in sample.messages if each.role == 'user')


@pytest.mark.parametrize('name', FILES)
def test_every_row_is_a_pair_of_two_answers_to_one_question(name):
    for sample in samples(name):
        assert sample.rejected is not None
        assert sample.messages[:-1] == sample.rejected[:-1]
        assert sample.messages[-2].role == 'user'
        assert {sample.messages[-1].role, sample.rejected[-1].role} == {'assistant'}
        better, worse = sample.messages[-1].content, sample.rejected[-1].content
        assert better and worse and better != worse


@pytest.mark.parametrize('name', FILES)
def test_the_licence_lies_beside_and_the_catalogue_knows_the_file(name):
    assert Path(find('swift/' + name.replace('_', '-')).dataset_path).name == f'{name}.jsonl'
    licence = build_pairs.HERE / 'licences' / f'{name.removesuffix("_heldout")}.txt'
    assert f'{name}.jsonl' in (text := licence.read_text(encoding='utf-8'))
    assert 'Apache License' in text


def test_pairs_that_are_held_out_share_no_question_with_the_others():
    for files in (FILES[:2], FILES[2:4]):
        first, held = ({opening(each) for each in samples(name)} for name in files)
        assert len(held) >= 15
        assert not first & held


def test_every_two_ranked_answers_are_a_pair_and_later_turns_have_pairs_too():
    said = lambda id, text, rank=None, replies=(), role='assistant': {
        'message_id': id,
        'text': text,
        'role': role,
        'rank': rank,
        'review_result': True,
        'deleted': text == 'gone',
        'replies': list(replies),
    }
    ask = said('q2', 'and?', replies=[said('e', 'so', 1), said('f', 'thus', 0)], role='prompter')
    answers = [
        said('a', 'ok ', 1, [ask]),
        said('b', 'fine', 0),
        said('c', 'gone', 2),
        said('d', 'x' * 99, 3),
        said('g', 'ok', 2),
    ]
    tree = {'prompt': said('q', 'hi', replies=answers, role='prompter')}
    take = {'without': [2], 'without_answers': [], 'heldout': 4, 'prompt': 50, 'answer': 50}
    train, heldout = build_pairs.ranked([tree, tree, tree], take)
    pairs = [([turn['content'] for turn in each['messages']], each['chosen'], each['rejected']) for each in train]
    assert pairs == [(['hi'], 'fine', 'ok'), (['hi'], 'fine', 'ok'), (['hi', 'ok', 'and?'], 'thus', 'so')]
    assert heldout == train  # the first tree and the second


def test_what_is_taken_is_written_down():
    sources = yaml.safe_load((build_pairs.HERE / 'sources.yaml').read_text(encoding='utf-8'))
    assert len(samples('pairs_zh')) == len(sources['dpo_zh_demo']['rows'])
    longest = max(len(each.messages[-1].content) for each in samples('pairs_en'))
    assert longest <= sources['open_assistant']['answer']
