"""What the lint finds in pairs, in rows of retrieval, and in labels; it looks at every sequence of a group."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from swift.core.types import Encoded, Message, Origin, Sample
from swift.data import tasks
from swift.data.lint import RULES, Lint, examine

from .bytes_template import STOP, encode


def turns(*said):
    """user and assistant in turn."""
    return tuple(Message('assistant' if i % 2 else 'user', each) for i, each in enumerate(said))


def pair(better, worse, row=1, **fields):
    return Sample(messages=turns(*better), rejected=turns(*worse), origin=Origin('a.jsonl', row), **fields)


def cutting(length):
    """Cut from the right, and say so."""

    def cut(sample):
        (whole,) = encode(sample)
        if len(whole) <= length:
            return [whole]
        columns = (whole.input_ids[:length], whole.weight[:length], whole.role[:length])
        return [Encoded(*columns, whole.origin, truncated=True)]

    return cut


def grouped(kind='preference', make=encode):
    return lambda sample: tasks.encoder(kind, make)(sample)


def rules(*samples, make, **facts):
    found = examine(((each, make(each)) for each in samples), stop_ids=[STOP], control=['<|im_end|>'], **facts)
    return {each.rule: each.rows for each in found.findings}


FINE = pair(['what is the capital of France?', 'Paris.'], ['what is the capital of France?', 'Rome.'], row=2)


def test_good_pairs_have_no_findings():
    parting = pair(['hello there', 'a', 'why?', 'b'], ['hello there', 'c', 'what?', 'd'], row=3)
    system = (Message('system', 'be brief'),)
    asked = pair(['of Italy?', 'Rome.'], ['of Italy?', 'Oslo.'], row=4)
    system = dataclasses.replace(asked, messages=system + asked.messages, rejected=system + (asked.rejected or ()))
    assert rules(FINE, parting, system, make=grouped()) == {}


@pytest.mark.parametrize(
    ('bad', 'rule'),
    [
        (pair(['hi', 'yes'], ['hi', ' yes\n'], row=7), 'same-pair'),
        (pair(['hi', 'yes'], ['hi', ' '], row=7), 'empty-answer'),
        (pair(['hi', 'yes'], ['ho', 'no'], row=7), 'other-prompt'),
        (pair(['hi', 'yes', 'so', 'a'], ['hi', 'yes', 'but', 'b'], row=7), 'other-prompt'),
        (pair(['hi', 'yes', 'so', 'a'], ['hi', 'yes'], row=7), 'other-prompt'),
        (pair(['hi', 'it is so'], ['hi', 'it is'], row=7), 'cut-answer'),
        (pair(['hi', 'it i'], ['hi', 'it is so'], row=7), 'cut-answer'),
        (pair(['hi', 'yes'], ['hi', 'no'], row=7, margin=-0.5), 'negative-margin'),
        (pair(['hi', 'yes'], ['hi', 'no <|im_end|>'], row=7), 'leaked-control'),
        (pair(['hi', ' ', 'ho', 'yes'], ['hi', ' ', 'ho', 'no'], row=7), 'empty-turn'),
    ],
)
def test_a_faulty_pair_is_named(bad, rule):
    assert rules(FINE, bad, make=grouped()) == {rule: ['a.jsonl:7']}


def test_an_answer_that_is_a_finished_beginning_of_the_other_is_no_fault():
    assert rules(pair(['hi', 'Yes. It is.'], ['hi', 'Yes.']), make=grouped()) == {}


def test_every_answer_of_a_pair_must_end_with_a_stop_token():
    def open_ended(name):
        def make(sample):
            (whole,) = encode(sample)
            if sample.messages[-1].content != name:
                return [whole]
            return [Encoded(whole.input_ids[:-1], whole.weight[:-1], whole.role[:-1], whole.origin)]

        return make

    for name in ('Paris.', 'Rome.'):
        assert rules(FINE, make=grouped(make=open_ended(name))) == {'missing-stop': ['a.jsonl:2']}
    assert rules(FINE, make=grouped(make=open_ended('other'))) == {}


def test_a_pair_of_which_one_answer_is_cut_is_named_and_one_that_fits_is_not():
    long = pair(['hi', 'yes'], ['hi', 'no, by no means, never'], row=7)
    assert rules(long, make=grouped(make=cutting(10)), max_length=10) == {
        'truncated': ['a.jsonl:7'],
        'cut-pair': ['a.jsonl:7'],
    }
    both = pair(['hi', 'yes, by all means, always'], ['hi', 'no, by no means, never'], row=7)
    assert rules(both, make=grouped(make=cutting(10)), max_length=10) == {'truncated': ['a.jsonl:7']}
    assert rules(long, both, make=grouped(make=cutting(99)), max_length=99) == {}


def test_pairs_that_share_a_prompt_are_no_near_doubles_but_equal_pairs_are_doubles():
    prompt = ' '.join(f'word{i}' for i in range(60))
    rows = [pair([prompt, 'a'], [prompt, each], row=i) for i, each in enumerate(['b', 'c', 'b'])]
    assert rules(*rows, make=grouped()) == {'duplicate': ['a.jsonl:2 = a.jsonl:0']}


def verdict(text, label, row):
    return Sample(messages=turns(text, f'answer to {text}'), label=label, origin=Origin('a.jsonl', row))


def test_judged_answers_are_counted_and_must_not_all_be_of_one_kind():
    rows = [verdict(text, label, i) for i, (text, label) in enumerate(zip('abcd', [True, 1, False, True], strict=True))]
    make = grouped('verdict')
    found = examine(((each, make(each)) for each in rows), stop_ids=[STOP])
    assert found.findings == []
    assert found.stats.labels == {'1': 3, '0': 1}
    assert str(found.stats).endswith('; labels 1 (75%), 0 (25%)')
    assert Lint.from_json(found.to_json()).stats == found.stats
    assert rules(*rows[:2], make=make) == {'one-label': []}


def read(sample):
    """As for a model with a head: no token carries loss."""
    (whole,) = encode(sample)
    return [dataclasses.replace(whole, weight=np.zeros_like(whole.weight), label=(1.0,))]


def test_texts_with_classes_need_no_loss_and_no_answer():
    rows = [Sample(messages=turns(text), label=i % 3, origin=Origin('a.jsonl', i)) for i, text in enumerate('abcdef')]
    assert rules(*rows, make=read) == {}


def test_scores_are_not_counted_as_classes():
    rows = [Sample(messages=turns(text), label=i / 7, origin=Origin('a.jsonl', i)) for i, text in enumerate('abc', 1)]
    assert examine((each, read(each)) for each in rows).stats.labels == {}


@pytest.mark.parametrize(
    ('positives', 'negatives', 'expected'),
    [
        ('a', 'bc', {}),
        ('a', 'ba', {'false-negative': ['a.jsonl:7']}),
        ('a ', 'b', {'empty-turn': ['a.jsonl:7']}),
    ],
)
def test_texts_of_an_anchor_are_told_apart(positives, negatives, expected):
    texts = lambda side: tuple((Message('user', each),) for each in side)
    sample = Sample(
        messages=turns('q'), positives=texts(positives), negatives=texts(negatives), origin=Origin('a.jsonl', 7)
    )
    assert rules(sample, make=read) == expected


@pytest.mark.parametrize('page', ['docs/data_formats.md', 'docs/zh/data_formats.md'])
def test_the_page_names_every_rule(page):
    text = (Path(__file__).parents[2] / page).read_text(encoding='utf-8')
    assert all(f'`{rule}`' in text for rule in RULES)
