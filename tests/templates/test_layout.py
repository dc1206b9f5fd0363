"""A row of a shape that was read before becomes the same tokens, weights and roles as one that is read first."""

import numpy as np
import pytest

from swift.core.errors import RowError
from swift.core.types import Sample
from swift.templates import ahead
from tests import tiny
from tests.templates.world import answer, encode, real, real_templates, system, template, user

TEXTS = [
    'Which one is it?', 'naïve café 你好 🙂🙃', 'a <|im_end|> b', 'x\n\n```py\nx = {"a": 1}\n```', 'What? What?',
    '</s> and <think>so</think>', 'e\u0301 \u2000thin', 'assistant', '<tool_call>', '12 + 30 = 42.',
    'It ends. \n', ' It begins', 'It ended. \n', '\u3000wide\t', ' \n', ' It began',
]  # fmt: skip
SCALES = ('default', 'all', 'last_round', 'default+ignore_empty_think', 'hermes')


def rows():
    """Rows of four shapes, several of each."""
    for number, text in enumerate(TEXTS):
        other = TEXTS[number - 3]
        yield (user(text), answer(other))
        yield (system(other), user(text), answer(other, loss=number % 3 or None))
        yield (user(text), answer(text), user(other), answer(other))
        yield (user(text), answer(other), user(text))


def encoded(template, messages):
    try:
        return plain(template.encode(Sample(messages=messages)))
    except RowError as error:
        return plain(error)


def plain(outcome):
    if isinstance(outcome, RowError):
        return str(outcome)
    return [
        (each.input_ids.tolist(), each.weight.tolist(), each.role.tolist(), each.input_ids.dtype, each.weight.dtype)
        for each in outcome
    ]


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', ['qwen3', 'qwen2_5', 'llama3', 'deepseekv3', 'phi3', 'glm4moe', 'gptoss_training'])
def test_rows_do_not_depend_on_the_rows_before_or_beside_them(name, scale, monkeypatch):
    if name not in real_templates():
        pytest.skip('trl has no such template any more')
    short, long, many = (real(name, loss_scale=scale)[1] for _ in range(3))
    long._as_before = lambda *row: None
    monkeypatch.setattr(ahead, 'BLOCK', 7)
    together = many.encode_all(Sample(messages=messages) for messages in rows())
    for messages, outcome in zip(rows(), together, strict=True):
        assert encoded(short, messages) == encoded(long, messages) == plain(outcome)


def test_a_second_row_of_a_shape_takes_the_short_way(monkeypatch):
    tokenizer = tiny.tokenizer()
    made = template(tokenizer)
    encode(made, user('Who are you?'), answer('A model.'))
    monkeypatch.setattr(made, '_from_the_beginning', None)
    row = encode(made, user('What is the capital of France?'), answer('Paris, 你好.'))
    learnt = tokenizer.decode(row.input_ids[np.flatnonzero(row.weight)])
    assert learnt == 'Paris, 你好.<|im_end|>'


def test_blanks_at_the_edges_of_messages_are_a_shape_of_their_own(monkeypatch):
    made, long = template(tiny.tokenizer()), template(tiny.tokenizer())
    long._as_before = lambda *row: None
    encode(made, user(' Who are you?'), answer('A model. \n'))
    expected = encode(long, user(' What is it?'), answer('Paris, 你好. \n'))
    monkeypatch.setattr(made, '_from_the_beginning', None)
    row = encode(made, user(' What is it?'), answer('Paris, 你好. \n'))
    assert row.input_ids.tolist() == expected.input_ids.tolist() and row.weight.tolist() == expected.weight.tolist()
