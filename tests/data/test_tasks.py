"""What classifiers, embedding models and rerankers make of rows as people write them."""

import pytest

from swift.core.errors import RowError
from swift.core.types import Origin
from swift.data import tasks
from swift.data.convert import convert

from .bytes_template import encode


def made(kind, row, **settings):
    return tasks.encoder(kind, encode, **settings)(convert(row, Origin('a.jsonl', 1)))


def said(row):
    """The text of every sequence of a row of the store, without control tokens."""
    text = lambda ids: bytes(each for each in ids.tolist() if each < 256).decode()
    spans = list(zip(row.segments.starts, row.segments.starts[1:], strict=False))
    whole = lambda leaf: ''.join(text(row.input_ids[slice(*spans[i])]) for i in row.segments.path(leaf))
    return [whole(leaf) for leaf in row.segments.leaves]


def test_a_query_stands_before_each_document_of_a_reranker_row():
    (row,) = made('reranker', {'query': 'hi ', 'docs': ['b', 'a', 'c'], 'labels': [0, 1, 0]})
    assert said(row) == ['hi a', 'hi b', 'hi c']
    assert row.label == (1.0, 0.0, 0.0)


@pytest.mark.parametrize('label', [0, 1])
@pytest.mark.parametrize('row', [{'query': 'hi ', 'passage': 'a'}, {'sentence1': 'hi ', 'sentence2': 'a'}])
def test_a_document_with_a_label_is_relevant_only_if_the_label_says_so(row, label):
    (found,) = made('reranker', {**row, 'label': label})
    assert (said(found), found.label) == (['hi a'], (float(label),))


def test_a_graded_document_is_refused():
    with pytest.raises(RowError, match='relevant is 1 or 0'):
        made('reranker', {'query': 'hi', 'passage': 'a', 'label': 0.5})


def test_an_embedding_row_is_an_anchor_and_its_texts_with_how_alike_the_first_are():
    (row,) = made('embedding', {'sentence1': 'hi', 'sentence2': 'a', 'score': 0.5})
    assert (said(row), row.label) == (['hi', 'a'], (0.5,))
    (row,) = made('embedding', {'anchor': 'hi', 'positive': 'a', 'negative_1': 'b', 'negative_2': 'c'})
    assert (said(row), row.label) == (['hi', 'a', 'b', 'c'], ())


def test_two_sentences_of_a_class_are_read_as_one_sequence():
    (row,) = made('labelled', {'premise': 'hi ', 'hypothesis': 'a', 'label': 2}, problem='single_label_classification')
    assert bytes(row.input_ids[1:5].tolist()) == b'hi a'
    assert row.label == (2.0,)


@pytest.mark.parametrize('label', [-1, 3, 0.5])
def test_a_class_is_a_whole_number_below_their_number(label):
    with pytest.raises(RowError, match='classes are whole numbers from 0 to 2'):
        made('labelled', {'text': 'hi', 'label': label}, problem='single_label_classification', labels=3)
