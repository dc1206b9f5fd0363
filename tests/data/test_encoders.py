"""Rows of classifiers, embedding models and rerankers: which sequences they become, with which labels."""

from __future__ import annotations

import numpy as np
import pytest

from swift.core.errors import RowError
from swift.core.types import Encoded, Message, Origin, Sample
from swift.data.collate import collate
from swift.data.tasks import encoder


def encode(sample: Sample) -> list[Encoded]:
    """A token a character, read at the end."""
    text = sample.text or '\n'.join(f'{each.role}:{each.content}' for each in sample.messages)
    ids = np.array([ord(each) for each in text], np.int32)
    weight = np.zeros(len(ids), np.float32)
    weight[-1] = 1
    return [Encoded(ids, weight, np.zeros(len(ids), np.uint8), Origin('rows', 1))]


def user(text: str) -> tuple[Message, ...]:
    return (Message('user', text),)


def sequences(row: Encoded) -> list[str]:
    """The text of each sequence, what it shares included."""
    starts = row.segments.starts
    text = ''.join(map(chr, row.input_ids))
    whole = lambda path: ''.join(text[starts[i] : starts[i + 1]] for i in path)
    return [whole(row.segments.path(leaf)) for leaf in row.segments.leaves]


# ------------------------------------------------------------------------------------------------------------- labels
@pytest.mark.parametrize(
    ('problem', 'label', 'kept'),
    [
        ('single_label_classification', 2, (2.0,)),
        ('single_label_classification', True, (1.0,)),
        ('multi_label_classification', [0.0, 2.0], (0.0, 2.0)),
        ('multi_label_classification', [], ()),
        ('regression', [0.1, -3.0, 2.5], (0.1, -3.0, 2.5)),
    ],
)
def test_a_label_is_kept_as_numbers(problem, label, kept):
    read = encoder('labelled', encode, problem=problem, labels=3)
    [row] = read(Sample(user('good'), label=label))
    assert row.label == kept


@pytest.mark.parametrize(
    ('problem', 'label', 'wrong'),
    [
        ('single_label_classification', None, 'no label'),
        ('single_label_classification', 3, 'from 0 to 2'),
        ('single_label_classification', 0.5, 'whole numbers'),
        ('single_label_classification', [1.0], 'several classes'),
        ('multi_label_classification', [0.0, 7.0], 'from 0 to 2'),
        ('regression', 1.0, 'the head has 3'),
    ],
)
def test_a_label_that_cannot_be_is_refused_with_the_reason(problem, label, wrong):
    with pytest.raises(RowError, match=wrong):
        encoder('labelled', encode, problem=problem, labels=3)(Sample(user('good'), label=label))


def test_a_pair_of_sentences_is_one_text():
    read = encoder('labelled', encode, problem='single_label_classification', labels=2)
    [row] = read(Sample(user('it rains'), positives=(user('it is wet'),), label=1))
    assert ''.join(map(chr, row.input_ids)) == 'user:it rains\nassistant:it is wet'


# ---------------------------------------------------------------------------------------------------------- embeddings
def test_an_embedding_row_is_an_anchor_a_positive_and_its_negatives_each_whole():
    row = Sample(user('a'), positives=(user('b'), user('unused')), negatives=(user('c'), user('d')), label=0.7)
    [made] = encoder('embedding', encode)(row)
    assert sequences(made) == ['user:a', 'user:b', 'user:c', 'user:d']
    assert made.label == (0.7,) and not made.segments.prefix_of


def test_an_embedding_row_without_a_positive_is_refused_unless_it_is_only_read():
    with pytest.raises(RowError, match='no positive'):
        encoder('embedding', encode)(Sample(user('a')))
    [made] = encoder('embedding', encode, asked=True)(Sample(user('a')))
    assert sequences(made) == ['user:a']


def test_a_row_of_which_one_text_is_too_long_is_left_out_whole():
    limited = lambda sample: [each for each in encode(sample) if len(each) < 10]
    assert encoder('embedding', limited)(Sample(user('a'), positives=(user('b' * 20),))) == []


# ----------------------------------------------------------------------------------------------------------- rerankers
QUERY = Sample(
    user('which one is it?'),
    positives=(user('this'), user('that')),
    negatives=tuple(user(f'not {i}') for i in range(9)),
)


def test_a_query_is_laid_down_once_before_its_documents():
    [made] = encoder('reranker', encode, max_negative_samples=2)(QUERY)
    asked = 'user:which one is it?\nassistant:'
    assert sequences(made) == [asked + each for each in ('this', 'not 0', 'not 1')]
    assert made.segments.prefix_of == (-1, 0, 0, 0) and made.label == (1.0, 0.0, 0.0)


def test_each_positive_makes_a_group_of_its_own_and_seven_negatives_are_used():
    made = encoder('reranker', encode, max_positive_samples=2)(QUERY)
    assert [len(each.segments.leaves) for each in made] == [8, 8]
    together = encoder('reranker', encode, max_positive_samples=None, max_negative_samples=None, asked=True)(QUERY)
    assert [each.label for each in together] == [(1.0,) * 2 + (0.0,) * 9]


def test_a_single_document_with_a_verdict_is_a_row_too():
    pair = (*user('q'), Message('assistant', 'd'))
    [made] = encoder('reranker', encode)(Sample(pair, label=0))
    assert sequences(made) == ['user:q\nassistant:d'] and made.label == (0.0,)
    with pytest.raises(RowError, match='1 or 0'):
        encoder('reranker', encode)(Sample(pair, label=0.4))
    with pytest.raises(RowError, match='no document'):
        encoder('reranker', encode)(Sample(user('q'), label=1))


def test_rows_of_different_sizes_are_one_batch_with_their_groups_and_labels():
    rows = [
        encoder('embedding', encode)(Sample(user('a'), positives=(user('b'),), negatives=(user('c'),) * n))[0]
        for n in (0, 2)
    ]
    made = collate(rows)
    assert made.groups == (2, 4) and len(made.segments.leaves) == 6
