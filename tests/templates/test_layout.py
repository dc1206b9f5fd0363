"""A row of a shape that was read before becomes the same tokens, weights and roles as one that is read first."""

import numpy as np
import pytest

from swift.core.errors import RowError
from swift.core.types import Sample
from tests import tiny
from tests.templates.world import answer, encode, real, real_templates, system, template, user

TEXTS = [
    'Which one is it?', 'naïve café 你好 🙂🙃', 'a <|im_end|> b', 'x\n\n```py\nx = {"a": 1}\n```', 'What? What?',
    '</s> and <think>so</think>', 'e\u0301 \u2000thin', 'assistant', '<tool_call>', '12 + 30 = 42.',
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
        return [
            (each.input_ids.tolist(), each.weight.tolist(), each.role.tolist(), each.input_ids.dtype, each.weight.dtype)
            for each in template.encode(Sample(messages=messages))
        ]
    except RowError as error:
        return str(error)


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('name', ['qwen3', 'qwen2_5', 'llama3', 'deepseekv3', 'phi3', 'glm4moe', 'gptoss_training'])
def test_rows_do_not_depend_on_the_rows_before_them(name, scale):
    if name not in real_templates():
        pytest.skip('trl has no such template any more')
    short, long = (real(name, loss_scale=scale)[1] for _ in range(2))
    long._as_before = lambda *row: None
    for messages in rows():
        assert encoded(short, messages) == encoded(long, messages)


def test_a_second_row_of_a_shape_takes_the_short_way(monkeypatch):
    tokenizer = tiny.tokenizer()
    made = template(tokenizer)
    encode(made, user('Who are you?'), answer('A model.'))
    monkeypatch.setattr(made, '_from_the_beginning', None)
    row = encode(made, user('What is the capital of France?'), answer('Paris, 你好.'))
    learnt = tokenizer.decode(row.input_ids[np.flatnonzero(row.weight)])
    assert learnt == 'Paris, 你好.<|im_end|>'
