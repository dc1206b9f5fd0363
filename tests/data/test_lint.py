"""What the lint finds, with row numbers, and what it leaves alone."""

import numpy as np
import pytest

from swift.core.errors import DataError
from swift.core.types import Message, Origin, Sample
from swift.data.likeness import Likeness, digests
from swift.data.lint import RULES, Finding, Lint, examine, overlap

from .bytes_template import STOP, encode, splitting


def sample(*turns, row=1, **fields):
    """Turns as (role, content); a lone text is a document."""
    if turns and isinstance(turns[0], str):
        return Sample(text=turns[0], origin=Origin('a.jsonl', row))
    messages = tuple(
        Message(role, content, loss) for role, content, loss in (each + (None,) * (3 - len(each)) for each in turns)
    )
    return Sample(messages=messages, origin=Origin('a.jsonl', row), **fields)


GOOD = sample(('user', 'hi'), ('assistant', 'hello'))
PAIR = (Message('user', 'hi'), Message('assistant', 'hello'))


def cut(length):
    def encode_cut(each):
        (whole,) = encode(each)
        whole.input_ids, whole.weight, whole.role = (
            column[:length] for column in (whole.input_ids, whole.weight, whole.role)
        )
        return [whole]

    return encode_cut


def found(*samples, make=encode, **facts):
    facts = {'stop_ids': [STOP], 'control': ['<|im_end|>', '<|im_start|>'], **facts}
    return examine(((each, make(each)) for each in samples), **facts)


def rules(*samples, **facts):
    return {each.rule: each.rows for each in found(*samples, **facts).findings}


def test_good_rows_have_no_findings():
    tools = sample(('user', 'a'), ('assistant', 'call'), ('tool', '1'), ('tool', '2'), ('assistant', 'b'))
    document = sample(('assistant', 'a document as established files write it'), row=4)
    assert rules(GOOD, tools, sample('a document', row=2), document) == {}


@pytest.mark.parametrize(
    ('bad', 'rule'),
    [
        (sample(('user', 'x'), ('assistant', 'y', 0.0), row=7), 'zero-loss'),
        (sample(('user', 'x'), ('assistant', 'rendered<|im_end|>'), row=7), 'leaked-control'),
        (sample('a document with <|im_start|>user', row=7), 'leaked-control'),
        (sample(('system', ' '), ('user', 'x'), ('assistant', 'y'), row=7), 'empty-turn'),
        (sample(('user', ''), ('assistant', 'y'), row=7), 'empty-turn'),
        (sample(('assistant', 'y'), ('user', 'x'), ('assistant', 'y'), row=7), 'role-order'),
        (sample(('user', 'x'), ('user', 'x'), ('assistant', 'y'), row=7), 'role-order'),
        (sample(('user', 'x'), ('assistant', 'y'), ('user', 'x'), row=7), 'role-order'),
        (sample(('user', 'x'), ('system', 's'), ('assistant', 'y'), row=7), 'role-order'),
        (sample(('user', 'x'), ('tool', '1'), ('assistant', 'y'), row=7), 'role-order'),
        (sample(('user', 'hi'), ('assistant', 'hello'), row=7, rejected=PAIR), 'same-pair'),
    ],
)
def test_a_faulty_row_is_named(bad, rule):
    assert rules(sample(('user', 'q'), ('assistant', 'other')), bad) == {rule: ['a.jsonl:7']}


def test_an_answer_without_its_end_is_cut_off_or_has_no_stop_token():
    long = sample(('user', 'hi'), ('assistant', 'hello world'), row=3)
    assert rules(long, make=cut(8), max_length=8) == {'truncated': ['a.jsonl:3']}
    assert rules(long, make=cut(8), max_length=100) == {'missing-stop': ['a.jsonl:3']}
    assert rules(long, make=cut(8), max_length=100, stop_ids=[]) == {}
    assert rules(sample('a long document', row=3), make=cut(8), max_length=8) == {}
    assert rules(long, make=cut(3), max_length=3) == {'zero-loss': ['a.jsonl:3']}


def test_a_piece_of_a_document_without_loss_is_no_fault_but_a_row_without_is():
    document = sample('abcdefgh', row=3)
    assert rules(document, make=splitting(3)) == {}
    assert rules(document, make=splitting(1)) == {'zero-loss': ['a.jsonl:3']}


def test_doubles_are_named_with_their_first_and_the_system_prompt_does_not_count():
    doubles = [
        sample(('user', 'hi'), ('assistant', 'hello'), row=1),
        sample(('user', 'ho'), ('assistant', 'hello'), row=2),
        sample(('system', 's'), ('user', 'hi'), ('assistant', 'hello'), row=3),
        sample(('user', 'hi'), ('assistant', 'hello'), row=4),
    ]
    again = doubles[0]  # a row that a count repeats
    assert rules(*doubles, again) == {'duplicate': ['a.jsonl:3 = a.jsonl:1', 'a.jsonl:4 = a.jsonl:1']}


def test_a_row_that_was_asked_for_several_times_is_no_double():
    assert rules(sample(('user', 'hi'), ('assistant', 'hello')), sample(('user', 'hi'), ('assistant', 'hello'))) == {}


def test_near_doubles_are_found_and_different_texts_are_not():
    random = np.random.default_rng(0)
    base = random.integers(97, 122, 400)
    touched = base.copy()
    touched[[100, 300]] = 122
    others = [random.integers(97, 122, 400) for _ in range(50)]
    likeness = Likeness()
    likeness.add([base, *others[:25]])
    likeness.add([touched, *others[25:], base[:20], base[:20] + 1])
    exact, near = likeness.doubles()
    assert exact.tolist() == [-1] * 54
    assert np.flatnonzero(near >= 0).tolist() == [26]
    assert near[26] == 0


def test_digests_tell_order_and_length():
    sequences = [[1, 2, 3], [3, 2, 1], [1, 2], [1, 2, 3, 0], [0], [0, 0], []]
    found_digests = digests([np.asarray(each, np.int32) for each in sequences]).tolist()
    assert len(set(found_digests)) == len(sequences)
    assert found_digests[-1] == 0


def test_statistics_are_those_of_the_sequences():
    samples = [sample(('user', 'q' * i), ('assistant', 'r' * 2 * i), row=i) for i in range(1, 300)]
    stats = found(*samples).stats
    lengths = np.asarray([len(encode(each)[0]) for each in samples])
    assert (stats.rows, stats.sequences, stats.tokens) == (299, 299, lengths.sum())
    assert stats.mean == pytest.approx(lengths.mean())
    assert stats.std == pytest.approx(lengths.std())
    assert (stats.shortest, stats.longest) == (lengths.min(), lengths.max())
    assert stats.supervised == sum((encode(each)[0].weight > 0).sum() for each in samples)


def test_only_errors_refuse_and_the_first_rows_are_named():
    bad = [sample(('user', f'{i}'), ('assistant', f'{i}', 0.0), row=i) for i in range(1, 40)]
    lint = found(*bad)
    assert Lint.from_json(lint.to_json()) == lint
    with pytest.raises(DataError, match=r'error zero-loss: 39 x .*a\.jsonl:1, 2, 3'):
        lint.refuse()
    found(sample(('user', ''), ('assistant', 'y'))).refuse()


def test_overlap_of_training_and_evaluation_is_named():
    train, val = (digests([np.asarray(each) for each in side]) for side in ([[1, 2], [3]], [[9], [3], [3, 4]]))
    finding = overlap(train, val, lambda i: Origin('val.jsonl', i + 1))
    assert (finding.count, finding.rows) == (1, ['val.jsonl:2'])


def test_every_rule_says_what_and_how_to_mend():
    assert all(rule.what and rule.fix and rule.severity in ('error', 'warning') for rule in RULES.values())


def test_rows_of_one_file_are_named_shortly():
    finding = Finding('duplicate')
    places = ['data/a.jsonl:3', 'data/a.jsonl:7', 'data/b.jsonl:2', 'data/b.jsonl:9']
    finding.add(np.arange(4), places.__getitem__)
    assert str(finding).endswith(': data/a.jsonl:3, 7, data/b.jsonl:2, 9')
