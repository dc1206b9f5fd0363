"""Many rows at a time: in their order, each as if it were alone, with what goes wrong in its place."""

import threading

import pytest

from swift.core.errors import DataError, RowError
from swift.core.types import Message, Sample
from swift.templates import ahead
from tests import tiny
from tests.templates.world import template

TEXTS = ['Who are you?', 'a <|im_end|> b', '', 'naïve 你好', 'x\n']


def steps(number):
    """Wants no ids, some, or several; or goes wrong before or after."""
    if number % 5 == 1:
        raise RowError(f'{number} before')
    asked = []
    for i in range(number % 3):
        asked.append((yield f'text {number}, {i}'))
    if number % 5 == 2:
        raise RowError(f'{number} after')
    return [number, *asked]


def ids(texts):
    return [list(text.encode()) for text in texts]


def outcome(number):
    try:
        return ahead.alone(steps(number), ids)
    except RowError as error:
        return str(error)


@pytest.mark.parametrize('count', [0, 1, 5, 6, 40])
def test_outcomes_come_in_order_and_are_those_of_each_row_alone(count, monkeypatch):
    monkeypatch.setattr(ahead, 'BLOCK', 6)
    found = [
        str(each) if isinstance(each, RowError) else each for each in ahead.together(map(steps, range(count)), ids)
    ]
    assert found == [outcome(number) for number in range(count)]


def test_no_more_than_two_blocks_are_read_ahead(monkeypatch):
    monkeypatch.setattr(ahead, 'BLOCK', 4)
    begun = []
    rows = (begun.append(number) or steps(3 * number) for number in range(0, 500, 5))
    for given, _ in enumerate(ahead.together(rows, ids), 1):
        assert len(begun) <= given + 8


def test_what_stops_the_run_is_raised_and_no_thread_is_left():
    def refusing(texts):
        raise DataError('stop')

    for rows in (ahead.together(map(steps, [0, 4]), refusing), ahead.together(map(steps, [0, 4, 6]), ids)):
        with pytest.raises((DataError, StopIteration)):
            for _ in range(4):
                next(rows)
    half = ahead.together(map(steps, range(0, 500, 5)), ids)
    next(half)
    half.close()
    assert not [each for each in threading.enumerate() if each.name.startswith('tokenise')]


def test_conversations_and_texts_in_one_go_are_what_they_are_alone(monkeypatch):
    monkeypatch.setattr(ahead, 'BLOCK', 3)
    samples = [
        Sample(messages=(Message('user', text), Message('assistant', other))) for text in TEXTS for other in TEXTS
    ]
    samples += [Sample(text=text) for text in TEXTS]
    made = template(tiny.tokenizer())
    for sample, found in zip(samples, made.encode_all(samples), strict=True):
        try:
            (expected,) = template(tiny.tokenizer()).encode(sample) if sample.text is None else made.encode(sample)
        except RowError as error:
            assert str(found) == str(error)
        else:
            assert found[0].input_ids.tolist() == expected.input_ids.tolist()
            assert found[0].weight.tolist() == expected.weight.tolist()
